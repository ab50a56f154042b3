-- Keys of requests and the answers they got (chassis.idempotency).

CREATE TABLE idempotency (
    tenant    text  NOT NULL,
    client_id text  NOT NULL,
    route     text  NOT NULL,
    key       text  NOT NULL CHECK (length(key) BETWEEN 1 AND 255),
    digest    bytea NOT NULL,
    fields    bytea NOT NULL,
    resource  uuid,
    status    smallint CHECK (status BETWEEN 200 AND 599),
    body      bytea,
    at        timestamptz NOT NULL DEFAULT transaction_timestamp(),
    PRIMARY KEY (tenant, client_id, route, key),
    CONSTRAINT idempotency_answer CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX idempotency_age ON idempotency (at);
COMMENT ON TABLE idempotency IS 'Claimed and answered in the transactions of the effect; kept for 30 days.';
COMMENT ON COLUMN idempotency.tenant IS 'class: internal';
COMMENT ON COLUMN idempotency.client_id IS 'class: internal';
COMMENT ON COLUMN idempotency.route IS 'class: internal';
COMMENT ON COLUMN idempotency.key IS 'class: internal';
COMMENT ON COLUMN idempotency.digest IS 'class: internal';
COMMENT ON COLUMN idempotency.fields IS 'class: internal';
COMMENT ON COLUMN idempotency.resource IS 'class: internal';
COMMENT ON COLUMN idempotency.status IS 'class: internal';
COMMENT ON COLUMN idempotency.body IS 'class: internal';
COMMENT ON COLUMN idempotency.at IS 'class: internal';

GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency TO :service_role;
