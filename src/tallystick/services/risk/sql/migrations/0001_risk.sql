-- Decisions are kept as they were made; lists are the tenant's own.

CREATE TABLE decision (
    id          uuid        NOT NULL PRIMARY KEY,
    tenant      text        NOT NULL,
    client_id   text        NOT NULL,
    payment     text        NOT NULL,
    amount      bigint      NOT NULL CHECK (amount > 0),
    currency    char(3)     NOT NULL,
    decision    text        NOT NULL CHECK (decision IN ('allow', 'deny')),
    score       integer     NOT NULL CHECK (score >= 0),
    reasons     text[]      NOT NULL,
    created_at  timestamptz NOT NULL
);
COMMENT ON TABLE decision IS 'One risk decision on one payment attempt; never changed.';
COMMENT ON COLUMN decision.id IS 'class: internal';
COMMENT ON COLUMN decision.tenant IS 'class: internal';
COMMENT ON COLUMN decision.client_id IS 'class: internal';
COMMENT ON COLUMN decision.payment IS 'class: internal';
COMMENT ON COLUMN decision.amount IS 'class: internal';
COMMENT ON COLUMN decision.currency IS 'class: internal';
COMMENT ON COLUMN decision.decision IS 'class: internal';
COMMENT ON COLUMN decision.score IS 'class: internal';
COMMENT ON COLUMN decision.reasons IS 'class: internal';
COMMENT ON COLUMN decision.created_at IS 'class: internal';
GRANT SELECT, INSERT ON decision TO :service_role;

CREATE TABLE list_entry (
    tenant      text        NOT NULL,
    kind        text        NOT NULL CHECK (kind IN ('card', 'account', 'client')),
    value       text        NOT NULL CHECK (length(value) BETWEEN 1 AND 64),
    outcome     text        NOT NULL CHECK (outcome IN ('allow', 'deny')),
    note        text        NOT NULL CHECK (length(note) <= 200),
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant, kind, value)
);
COMMENT ON TABLE list_entry IS 'What a tenant always denies or always allows.';
COMMENT ON COLUMN list_entry.tenant IS 'class: internal';
COMMENT ON COLUMN list_entry.kind IS 'class: internal';
COMMENT ON COLUMN list_entry.value IS 'class: personal';
COMMENT ON COLUMN list_entry.outcome IS 'class: internal';
COMMENT ON COLUMN list_entry.note IS 'class: internal';
COMMENT ON COLUMN list_entry.created_at IS 'class: internal';
GRANT SELECT, INSERT, UPDATE, DELETE ON list_entry TO :service_role;

CREATE TABLE list_version (
    single  boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
    version bigint  NOT NULL CHECK (version >= 0)
);
COMMENT ON TABLE list_version IS 'Counts the changes of all lists, so that replicas read the lists only when there is something new.';
COMMENT ON COLUMN list_version.single IS 'class: internal';
COMMENT ON COLUMN list_version.version IS 'class: internal';
INSERT INTO list_version (version) VALUES (0);
GRANT SELECT ON list_version TO :service_role;
GRANT UPDATE (version) ON list_version TO :service_role;
