-- Payments and refunds: one row each, from request to rest.
--
-- The ids of their effects (decision, transfers, requests to the acquirer) are derived from the row's own id: see model.py.

CREATE TABLE payment (
    id             uuid        NOT NULL PRIMARY KEY,
    tenant         text        NOT NULL,
    client_id      text        NOT NULL,
    status         text        NOT NULL CHECK (status IN
                       ('received', 'authorized', 'captured', 'settled', 'declined', 'canceled', 'failed', 'expired')),
    amount         bigint      NOT NULL CHECK (amount > 0),
    currency       text        NOT NULL CHECK (length(currency) = 3),
    captured       bigint      NOT NULL DEFAULT 0 CHECK (captured BETWEEN 0 AND amount),
    refunded       bigint      NOT NULL DEFAULT 0 CHECK (refunded >= 0),
    refunding      bigint      NOT NULL DEFAULT 0 CHECK (refunding >= 0),
    token          text,
    source         uuid,
    destination    uuid        NOT NULL,
    clearing       uuid,
    capture        text        NOT NULL CHECK (capture IN ('automatic', 'manual')),
    card           text,
    description    text,
    reference      text,
    metadata       text        NOT NULL DEFAULT '{}',
    risk_decision  text        CHECK (risk_decision IN ('allow', 'deny', 'unscored')),
    risk_score     integer,
    risk_reasons   text,
    held           boolean     NOT NULL DEFAULT false,
    released       boolean     NOT NULL DEFAULT false,
    acquirer_id    text,
    intent         text        CHECK (intent IN ('capture', 'cancel', 'expire')),
    intent_amount  bigint      NOT NULL DEFAULT 0 CHECK (intent_amount BETWEEN 0 AND amount),
    decline_code   text,
    decline_text   text,
    declined_by    text        CHECK (declined_by IN ('risk', 'ledger', 'issuer', 'platform')),
    disputed       boolean     NOT NULL DEFAULT false,
    waiting_route  text,
    waiting_key    text,
    waiting_client text,
    receipt        uuid        NOT NULL,
    trace          text        NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    expires_at     timestamptz,
    resume_at      timestamptz,
    attempts       integer     NOT NULL DEFAULT 0,
    version        integer     NOT NULL DEFAULT 0,
    CONSTRAINT payment_one_source CHECK ((token IS NULL) <> (source IS NULL)),
    CONSTRAINT payment_refunds_within_captured CHECK (refunded + refunding <= captured),
    CONSTRAINT payment_captured_when_settled CHECK (status <> 'settled' OR captured > 0)
) WITH (fillfactor = 85);
COMMENT ON TABLE payment IS 'A payment from a card or an account to an account.';
COMMENT ON COLUMN payment.id IS 'class: internal';
COMMENT ON COLUMN payment.tenant IS 'class: internal';
COMMENT ON COLUMN payment.client_id IS 'class: internal';
COMMENT ON COLUMN payment.status IS 'class: internal';
COMMENT ON COLUMN payment.amount IS 'class: personal';
COMMENT ON COLUMN payment.currency IS 'class: internal';
COMMENT ON COLUMN payment.captured IS 'class: personal';
COMMENT ON COLUMN payment.refunded IS 'class: personal';
COMMENT ON COLUMN payment.refunding IS 'class: personal';
COMMENT ON COLUMN payment.token IS 'class: internal';
COMMENT ON COLUMN payment.source IS 'class: internal';
COMMENT ON COLUMN payment.destination IS 'class: internal';
COMMENT ON COLUMN payment.clearing IS 'class: internal';
COMMENT ON COLUMN payment.capture IS 'class: internal';
COMMENT ON COLUMN payment.card IS 'class: personal; brand, last four digits and keyed fingerprint, never the number';
COMMENT ON COLUMN payment.description IS 'class: personal';
COMMENT ON COLUMN payment.reference IS 'class: personal';
COMMENT ON COLUMN payment.metadata IS 'class: personal';
COMMENT ON COLUMN payment.risk_decision IS 'class: internal';
COMMENT ON COLUMN payment.risk_score IS 'class: internal';
COMMENT ON COLUMN payment.risk_reasons IS 'class: internal';
COMMENT ON COLUMN payment.held IS 'class: internal';
COMMENT ON COLUMN payment.released IS 'class: internal';
COMMENT ON COLUMN payment.acquirer_id IS 'class: internal';
COMMENT ON COLUMN payment.intent IS 'class: internal';
COMMENT ON COLUMN payment.intent_amount IS 'class: personal';
COMMENT ON COLUMN payment.decline_code IS 'class: internal';
COMMENT ON COLUMN payment.decline_text IS 'class: internal';
COMMENT ON COLUMN payment.declined_by IS 'class: internal';
COMMENT ON COLUMN payment.disputed IS 'class: internal';
COMMENT ON COLUMN payment.waiting_route IS 'class: internal';
COMMENT ON COLUMN payment.waiting_key IS 'class: internal';
COMMENT ON COLUMN payment.waiting_client IS 'class: internal';
COMMENT ON COLUMN payment.receipt IS 'class: internal';
COMMENT ON COLUMN payment.trace IS 'class: internal';
COMMENT ON COLUMN payment.created_at IS 'class: internal';
COMMENT ON COLUMN payment.updated_at IS 'class: internal';
COMMENT ON COLUMN payment.expires_at IS 'class: internal';
COMMENT ON COLUMN payment.resume_at IS 'class: internal';
COMMENT ON COLUMN payment.attempts IS 'class: internal';
COMMENT ON COLUMN payment.version IS 'class: internal';

-- Lists go newest first within a tenant; ids are ordered by time.
CREATE INDEX payment_by_tenant ON payment (tenant, id DESC);
-- The few payments that somebody has to go on with.
CREATE INDEX payment_to_resume ON payment (resume_at) WHERE resume_at IS NOT NULL;

GRANT SELECT, INSERT, UPDATE ON payment TO :service_role;

CREATE TABLE refund (
    id             uuid        NOT NULL PRIMARY KEY,
    payment        uuid        NOT NULL REFERENCES payment (id),
    tenant         text        NOT NULL,
    client_id      text        NOT NULL,
    status         text        NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    amount         bigint      NOT NULL CHECK (amount > 0),
    currency       text        NOT NULL CHECK (length(currency) = 3),
    reason         text,
    by_card        boolean     NOT NULL,
    reversed       boolean     NOT NULL DEFAULT false,
    restored       boolean     NOT NULL DEFAULT false,
    failure_code   text,
    failure_text   text,
    failed_by      text        CHECK (failed_by IN ('risk', 'ledger', 'issuer', 'platform')),
    waiting_route  text,
    waiting_key    text,
    waiting_client text,
    receipt        uuid        NOT NULL,
    trace          text        NOT NULL DEFAULT '',
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    resume_at      timestamptz,
    attempts       integer     NOT NULL DEFAULT 0,
    version        integer     NOT NULL DEFAULT 0
);
COMMENT ON TABLE refund IS 'Money of a payment on its way back.';
COMMENT ON COLUMN refund.id IS 'class: internal';
COMMENT ON COLUMN refund.payment IS 'class: internal';
COMMENT ON COLUMN refund.tenant IS 'class: internal';
COMMENT ON COLUMN refund.client_id IS 'class: internal';
COMMENT ON COLUMN refund.status IS 'class: internal';
COMMENT ON COLUMN refund.amount IS 'class: personal';
COMMENT ON COLUMN refund.currency IS 'class: internal';
COMMENT ON COLUMN refund.reason IS 'class: personal';
COMMENT ON COLUMN refund.by_card IS 'class: internal';
COMMENT ON COLUMN refund.reversed IS 'class: internal';
COMMENT ON COLUMN refund.restored IS 'class: internal';
COMMENT ON COLUMN refund.failure_code IS 'class: internal';
COMMENT ON COLUMN refund.failure_text IS 'class: internal';
COMMENT ON COLUMN refund.failed_by IS 'class: internal';
COMMENT ON COLUMN refund.waiting_route IS 'class: internal';
COMMENT ON COLUMN refund.waiting_key IS 'class: internal';
COMMENT ON COLUMN refund.waiting_client IS 'class: internal';
COMMENT ON COLUMN refund.receipt IS 'class: internal';
COMMENT ON COLUMN refund.trace IS 'class: internal';
COMMENT ON COLUMN refund.created_at IS 'class: internal';
COMMENT ON COLUMN refund.updated_at IS 'class: internal';
COMMENT ON COLUMN refund.resume_at IS 'class: internal';
COMMENT ON COLUMN refund.attempts IS 'class: internal';
COMMENT ON COLUMN refund.version IS 'class: internal';
CREATE INDEX refund_by_payment ON refund (payment);
CREATE INDEX refund_to_resume ON refund (resume_at) WHERE resume_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON refund TO :service_role;

CREATE TABLE clearing (
    tenant    text NOT NULL,
    currency  text NOT NULL,
    account   uuid NOT NULL,
    client_id text NOT NULL,
    PRIMARY KEY (tenant, currency)
);
COMMENT ON TABLE clearing IS 'The ledger account that stands for the acquirer, per tenant and currency.';
COMMENT ON COLUMN clearing.tenant IS 'class: internal';
COMMENT ON COLUMN clearing.currency IS 'class: internal';
COMMENT ON COLUMN clearing.account IS 'class: internal';
COMMENT ON COLUMN clearing.client_id IS 'class: internal; for whom it was opened';
GRANT SELECT, INSERT ON clearing TO :service_role;

CREATE TABLE dispute (
    id         text        NOT NULL PRIMARY KEY,
    payment    uuid        NOT NULL REFERENCES payment (id),
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE dispute IS 'Disputes that the acquirer told of, so that each is told once.';
COMMENT ON COLUMN dispute.id IS 'class: internal';
COMMENT ON COLUMN dispute.payment IS 'class: internal';
COMMENT ON COLUMN dispute.created_at IS 'class: internal';
GRANT SELECT, INSERT ON dispute TO :service_role;

CREATE TABLE dispute_cursor (
    acquirer text   NOT NULL PRIMARY KEY,
    position bigint NOT NULL CHECK (position > 0)
);
COMMENT ON TABLE dispute_cursor IS 'How far each acquirer''s disputes were read.';
COMMENT ON COLUMN dispute_cursor.acquirer IS 'class: internal';
COMMENT ON COLUMN dispute_cursor.position IS 'class: internal';
GRANT SELECT, INSERT, UPDATE ON dispute_cursor TO :service_role;
