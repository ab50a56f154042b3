-- The service's own keys, each wrapped: the service key under the root (which is not in any database), all others under
-- the service key. A key is never deleted, only destroyed: its row stays and says when.
CREATE TABLE data_key (
    key_id       bytea       NOT NULL CHECK (octet_length(key_id) = 8),
    version      integer     NOT NULL CHECK (version BETWEEN 1 AND 65535),
    kind         text        NOT NULL CHECK (kind IN ('service', 'derivation', 'tenant', 'subject')),
    tenant       text        NOT NULL DEFAULT '',
    subject      text        NOT NULL DEFAULT '',
    state        text        NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'retired', 'destroyed')),
    wrapped_by   integer     NOT NULL DEFAULT 0 CHECK (wrapped_by BETWEEN 0 AND 65535),
    wrapped      bytea,
    check_value  bytea       NOT NULL CHECK (octet_length(check_value) = 16),
    created_at   timestamptz NOT NULL DEFAULT now(),
    retired_at   timestamptz,
    destroyed_at timestamptz,
    PRIMARY KEY (key_id, version),
    UNIQUE (kind, tenant, subject, version),
    CHECK ((state = 'destroyed') = (wrapped IS NULL)),
    CHECK ((state = 'destroyed') = (destroyed_at IS NOT NULL)),
    CHECK ((kind IN ('tenant', 'subject')) = (tenant <> '')),
    CHECK ((kind = 'subject') = (subject <> '')),
    CHECK ((kind = 'service') = (wrapped_by = 0))
);
-- At most one key of a kind takes new values.
CREATE UNIQUE INDEX data_key_active ON data_key (kind, tenant, subject) WHERE state = 'active';
-- What a rotation of the service key still has to wrap anew.
CREATE INDEX data_key_wrapped_by ON data_key (wrapped_by, key_id, version) WHERE wrapped IS NOT NULL;

COMMENT ON COLUMN data_key.key_id IS 'class: internal';
COMMENT ON COLUMN data_key.version IS 'class: internal';
COMMENT ON COLUMN data_key.kind IS 'class: internal';
COMMENT ON COLUMN data_key.tenant IS 'class: internal';
COMMENT ON COLUMN data_key.subject IS 'class: internal';
COMMENT ON COLUMN data_key.state IS 'class: internal';
COMMENT ON COLUMN data_key.wrapped_by IS 'class: internal';
COMMENT ON COLUMN data_key.wrapped IS 'class: secret';
COMMENT ON COLUMN data_key.check_value IS 'class: internal';
COMMENT ON COLUMN data_key.created_at IS 'class: internal';
COMMENT ON COLUMN data_key.retired_at IS 'class: internal';
COMMENT ON COLUMN data_key.destroyed_at IS 'class: internal';

GRANT SELECT, INSERT ON data_key TO :service_role;
GRANT UPDATE (state, wrapped_by, wrapped, retired_at, destroyed_at) ON data_key TO :service_role;

-- How far a re-wrap of a column has come, so that it goes on where it was.
CREATE TABLE rewrap_progress (
    job         text        PRIMARY KEY,
    after_key   text        NOT NULL DEFAULT '',
    scanned     bigint      NOT NULL DEFAULT 0,
    rewrapped   bigint      NOT NULL DEFAULT 0,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz
);
COMMENT ON COLUMN rewrap_progress.job IS 'class: internal';
COMMENT ON COLUMN rewrap_progress.after_key IS 'class: internal';
COMMENT ON COLUMN rewrap_progress.scanned IS 'class: internal';
COMMENT ON COLUMN rewrap_progress.rewrapped IS 'class: internal';
COMMENT ON COLUMN rewrap_progress.started_at IS 'class: internal';
COMMENT ON COLUMN rewrap_progress.finished_at IS 'class: internal';

GRANT SELECT, INSERT, UPDATE ON rewrap_progress TO :service_role;
