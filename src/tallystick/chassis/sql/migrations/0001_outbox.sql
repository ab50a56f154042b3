-- Facts leave a service by this table only, written in the transaction that made them (chassis.outbox).

GRANT USAGE ON SCHEMA public TO :service_role;

CREATE TABLE outbox (
    xid      xid8   NOT NULL DEFAULT pg_current_xact_id(),
    position bigint NOT NULL GENERATED ALWAYS AS IDENTITY (CACHE 1),
    id       uuid   NOT NULL,
    type     text   NOT NULL CHECK (length(type) BETWEEN 3 AND 120),
    at       timestamptz NOT NULL DEFAULT transaction_timestamp(),
    fact     bytea  NOT NULL,
    CONSTRAINT outbox_order PRIMARY KEY (xid, position),
    CONSTRAINT outbox_id UNIQUE (id)
);
COMMENT ON TABLE outbox IS 'Facts in the order (xid, position). Read only below the oldest running transaction: nothing can slip in before.';
COMMENT ON COLUMN outbox.xid IS 'class: internal';
COMMENT ON COLUMN outbox.position IS 'class: internal';
COMMENT ON COLUMN outbox.id IS 'class: internal';
COMMENT ON COLUMN outbox.type IS 'class: internal';
COMMENT ON COLUMN outbox.at IS 'class: internal';
COMMENT ON COLUMN outbox.fact IS 'class: internal';

-- One row: how far the relay is. seq numbers the facts 1, 2, 3 ... without touching them.
CREATE TABLE outbox_cursor (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    seq      bigint NOT NULL CHECK (seq >= 0),
    xid      xid8   NOT NULL,
    position bigint NOT NULL
);
INSERT INTO outbox_cursor (seq, xid, position) VALUES (0, '0', 0);
COMMENT ON COLUMN outbox_cursor.one IS 'class: internal';
COMMENT ON COLUMN outbox_cursor.seq IS 'class: internal';
COMMENT ON COLUMN outbox_cursor.xid IS 'class: internal';
COMMENT ON COLUMN outbox_cursor.position IS 'class: internal';

-- Which facts were relayed together: from this a lost stream is rebuilt, message for message.
CREATE TABLE outbox_batch (
    first         bigint  PRIMARY KEY CHECK (first >= 1),
    count         integer NOT NULL CHECK (count >= 1),
    last_xid      xid8    NOT NULL,
    last_position bigint  NOT NULL,
    at            timestamptz NOT NULL DEFAULT transaction_timestamp()
);
COMMENT ON COLUMN outbox_batch.first IS 'class: internal';
COMMENT ON COLUMN outbox_batch.count IS 'class: internal';
COMMENT ON COLUMN outbox_batch.last_xid IS 'class: internal';
COMMENT ON COLUMN outbox_batch.last_position IS 'class: internal';
COMMENT ON COLUMN outbox_batch.at IS 'class: internal';

-- A fact is never changed. Deleting is for the retention schedule, which only takes relayed ones.
GRANT SELECT, INSERT, DELETE ON outbox TO :service_role;
GRANT SELECT, UPDATE ON outbox_cursor TO :service_role;
GRANT SELECT, INSERT, DELETE ON outbox_batch TO :service_role;
