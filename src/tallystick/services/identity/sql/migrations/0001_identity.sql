-- Tenants, their API clients, the keys that sign our tokens, and what was revoked.
-- No token, assertion or clear private key is ever stored.

CREATE TABLE tenant (
    name text PRIMARY KEY CHECK (name ~ '^[a-z][a-z0-9-]{0,39}$' AND name <> 'platform'),
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE tenant IS 'Who owns clients, accounts, tokens and payments. Nothing crosses tenants.';
COMMENT ON COLUMN tenant.name IS 'class: internal';
COMMENT ON COLUMN tenant.created_at IS 'class: internal';

INSERT INTO tenant (name, created_at) VALUES ('default', now());

CREATE TABLE client (
    id uuid PRIMARY KEY,
    tenant text NOT NULL REFERENCES tenant (name),
    name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 100),
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0),
    keys jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX client_by_tenant ON client (tenant, id);
COMMENT ON TABLE client IS 'A program that calls the edge. It proves itself with one of its keys (RFC 7523).';
COMMENT ON COLUMN client.id IS 'class: internal';
COMMENT ON COLUMN client.tenant IS 'class: internal';
COMMENT ON COLUMN client.name IS 'class: personal';
COMMENT ON COLUMN client.scopes IS 'class: internal';
COMMENT ON COLUMN client.keys IS 'class: internal';
COMMENT ON COLUMN client.created_at IS 'class: internal';
COMMENT ON COLUMN client.revoked_at IS 'class: internal';

CREATE TABLE assertion_use (
    client_id uuid NOT NULL,
    jti_hash bytea NOT NULL CHECK (octet_length(jti_hash) = 32),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (client_id, jti_hash)
);
CREATE INDEX assertion_use_by_expiry ON assertion_use (expires_at);
COMMENT ON TABLE assertion_use IS
    'Assertions that were used, until they expire: in the database, since one that is forgotten in a restart can be used again.';
COMMENT ON COLUMN assertion_use.client_id IS 'class: internal';
COMMENT ON COLUMN assertion_use.jti_hash IS 'class: internal';
COMMENT ON COLUMN assertion_use.expires_at IS 'class: internal';

CREATE TABLE signing_key (
    kid text PRIMARY KEY,
    purpose text NOT NULL CHECK (purpose IN ('access', 'transaction')),
    state text NOT NULL CHECK (state IN ('pending', 'active', 'retiring', 'retired')),
    public_jwk jsonb NOT NULL,
    sealed_private bytea,
    created_at timestamptz NOT NULL,
    activated_at timestamptz,
    retiring_at timestamptz,
    retired_at timestamptz,
    CONSTRAINT signing_key_has_private CHECK ((state = 'retired') = (sealed_private IS NULL))
);
CREATE UNIQUE INDEX signing_key_one_active ON signing_key (purpose) WHERE state = 'active';
CREATE UNIQUE INDEX signing_key_one_pending ON signing_key (purpose) WHERE state = 'pending';
COMMENT ON TABLE signing_key IS 'Keys that sign tokens. The private half is sealed by the key ring and erased at the end of its life.';
COMMENT ON COLUMN signing_key.kid IS 'class: public';
COMMENT ON COLUMN signing_key.purpose IS 'class: internal';
COMMENT ON COLUMN signing_key.state IS 'class: internal';
COMMENT ON COLUMN signing_key.public_jwk IS 'class: public';
COMMENT ON COLUMN signing_key.sealed_private IS 'class: secret';
COMMENT ON COLUMN signing_key.created_at IS 'class: internal';
COMMENT ON COLUMN signing_key.activated_at IS 'class: internal';
COMMENT ON COLUMN signing_key.retiring_at IS 'class: internal';
COMMENT ON COLUMN signing_key.retired_at IS 'class: internal';

-- One row, locked by whoever revokes: epochs are without gaps and in the order of the commits, which a sequence is not.
CREATE TABLE revocation_epoch (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bigint NOT NULL CHECK (epoch >= 0)
);
COMMENT ON TABLE revocation_epoch IS 'The number of the newest revocation.';
COMMENT ON COLUMN revocation_epoch.one IS 'class: internal';
COMMENT ON COLUMN revocation_epoch.epoch IS 'class: internal';

INSERT INTO revocation_epoch (epoch) VALUES (0);

CREATE TABLE revocation (
    epoch bigint PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('jti', 'client', 'kid', 'all-before')),
    id text NOT NULL CHECK (char_length(id) BETWEEN 1 AND 256),
    until timestamptz NOT NULL
);
CREATE UNIQUE INDEX revocation_by_id ON revocation (kind, id);
CREATE INDEX revocation_by_end ON revocation (until);
COMMENT ON TABLE revocation IS 'What is no longer believed, for as long as somebody might still show it.';
COMMENT ON COLUMN revocation.epoch IS 'class: internal';
COMMENT ON COLUMN revocation.kind IS 'class: internal';
COMMENT ON COLUMN revocation.id IS 'class: internal';
COMMENT ON COLUMN revocation.until IS 'class: internal';

GRANT SELECT, INSERT ON tenant TO :service_role;
GRANT SELECT, INSERT ON client TO :service_role;
GRANT UPDATE (revoked_at) ON client TO :service_role;
GRANT SELECT, INSERT, DELETE ON assertion_use TO :service_role;
GRANT SELECT, INSERT ON signing_key TO :service_role;
GRANT UPDATE (state, sealed_private, activated_at, retiring_at, retired_at) ON signing_key TO :service_role;
GRANT SELECT ON revocation_epoch TO :service_role;
GRANT UPDATE (epoch) ON revocation_epoch TO :service_role;
GRANT SELECT, INSERT, DELETE ON revocation TO :service_role;
