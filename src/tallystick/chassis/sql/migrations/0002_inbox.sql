-- What this service has taken from others' facts, and what it could not take (chassis.bus).

CREATE TABLE inbox (
    source   text   NOT NULL,
    consumer text   NOT NULL,
    last_seq bigint NOT NULL CHECK (last_seq >= 0),
    at       timestamptz NOT NULL DEFAULT transaction_timestamp(),
    PRIMARY KEY (source, consumer)
);
COMMENT ON TABLE inbox IS 'Moved in the transaction that handles the facts: at-least-once delivery becomes exactly-once effect.';
COMMENT ON COLUMN inbox.source IS 'class: internal';
COMMENT ON COLUMN inbox.consumer IS 'class: internal';
COMMENT ON COLUMN inbox.last_seq IS 'class: internal';
COMMENT ON COLUMN inbox.at IS 'class: internal';

CREATE TABLE dead_letter (
    id       uuid    PRIMARY KEY,
    source   text    NOT NULL,
    consumer text    NOT NULL,
    seq      bigint  NOT NULL CHECK (seq >= 1),
    type     text    NOT NULL,
    fact     bytea   NOT NULL,
    error    text    NOT NULL CHECK (length(error) <= 2000),
    attempts integer NOT NULL CHECK (attempts >= 1),
    state    text    NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'requested', 'replayed', 'discarded')),
    at       timestamptz NOT NULL DEFAULT transaction_timestamp(),
    ended_at timestamptz,
    reason   text CHECK (length(reason) <= 2000),
    CONSTRAINT dead_letter_once UNIQUE (source, consumer, seq),
    CONSTRAINT dead_letter_ended CHECK ((state IN ('replayed', 'discarded')) = (ended_at IS NOT NULL))
);
CREATE INDEX dead_letter_open ON dead_letter (source, consumer, seq) WHERE state IN ('waiting', 'requested');
COMMENT ON TABLE dead_letter IS 'Facts that could not be handled, kept with their whole content until someone replays or discards them.';
COMMENT ON COLUMN dead_letter.id IS 'class: internal';
COMMENT ON COLUMN dead_letter.source IS 'class: internal';
COMMENT ON COLUMN dead_letter.consumer IS 'class: internal';
COMMENT ON COLUMN dead_letter.seq IS 'class: internal';
COMMENT ON COLUMN dead_letter.type IS 'class: internal';
COMMENT ON COLUMN dead_letter.fact IS 'class: internal';
COMMENT ON COLUMN dead_letter.error IS 'class: internal';
COMMENT ON COLUMN dead_letter.attempts IS 'class: internal';
COMMENT ON COLUMN dead_letter.state IS 'class: internal';
COMMENT ON COLUMN dead_letter.at IS 'class: internal';
COMMENT ON COLUMN dead_letter.ended_at IS 'class: internal';
COMMENT ON COLUMN dead_letter.reason IS 'class: internal';

GRANT SELECT, INSERT, UPDATE ON inbox TO :service_role;
GRANT SELECT, INSERT, UPDATE ON dead_letter TO :service_role;
