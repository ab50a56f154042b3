-- Webhook endpoints and what is on its way to them.

CREATE TABLE endpoint (
    id              uuid        NOT NULL PRIMARY KEY,
    tenant          text        NOT NULL,
    url             text        NOT NULL,
    events          text[]      NOT NULL CHECK (cardinality(events) BETWEEN 1 AND 50),
    description     text        NOT NULL,
    sealed_secret   bytea       NOT NULL,
    disabled_reason text,
    created_at      timestamptz NOT NULL,
    deleted_at      timestamptz
);
COMMENT ON TABLE endpoint IS 'Where a tenant wants to be told, and about what.';
COMMENT ON COLUMN endpoint.id IS 'class: internal';
COMMENT ON COLUMN endpoint.tenant IS 'class: internal';
COMMENT ON COLUMN endpoint.url IS 'class: personal';
COMMENT ON COLUMN endpoint.events IS 'class: internal';
COMMENT ON COLUMN endpoint.description IS 'class: personal';
COMMENT ON COLUMN endpoint.sealed_secret IS 'class: secret';
COMMENT ON COLUMN endpoint.disabled_reason IS 'class: internal';
COMMENT ON COLUMN endpoint.created_at IS 'class: internal';
COMMENT ON COLUMN endpoint.deleted_at IS 'class: internal';
CREATE INDEX endpoint_by_tenant ON endpoint (tenant, id) WHERE deleted_at IS NULL;
-- Deleting is done at once for all to see; the deliveries go page by page afterwards, and then the row.
CREATE INDEX endpoint_deleted ON endpoint (id) WHERE deleted_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON endpoint TO :service_role;

CREATE TABLE delivery (
    id           uuid        NOT NULL PRIMARY KEY,
    tenant       text        NOT NULL,
    endpoint     uuid        NOT NULL REFERENCES endpoint (id),
    fact         uuid        NOT NULL,
    type         text        NOT NULL,
    body         bytea       NOT NULL,
    status       text        NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'delivered', 'failed')),
    attempts     integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    created_at   timestamptz NOT NULL,
    next_at      timestamptz,
    delivered_at timestamptz,
    last_status  integer,
    last_error   text,
    CONSTRAINT delivery_once UNIQUE (endpoint, fact)
);
COMMENT ON TABLE delivery IS 'One event on its way to one endpoint.';
COMMENT ON COLUMN delivery.id IS 'class: internal';
COMMENT ON COLUMN delivery.tenant IS 'class: internal';
COMMENT ON COLUMN delivery.endpoint IS 'class: internal';
COMMENT ON COLUMN delivery.fact IS 'class: internal';
COMMENT ON COLUMN delivery.type IS 'class: internal';
COMMENT ON COLUMN delivery.body IS 'class: personal';
COMMENT ON COLUMN delivery.status IS 'class: internal';
COMMENT ON COLUMN delivery.attempts IS 'class: internal';
COMMENT ON COLUMN delivery.created_at IS 'class: internal';
COMMENT ON COLUMN delivery.next_at IS 'class: internal';
COMMENT ON COLUMN delivery.delivered_at IS 'class: internal';
COMMENT ON COLUMN delivery.last_status IS 'class: internal';
COMMENT ON COLUMN delivery.last_error IS 'class: internal';
-- What is due: only what is still to be sent is in it.
CREATE INDEX delivery_due ON delivery (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX delivery_by_endpoint ON delivery (endpoint, id DESC);
GRANT SELECT, INSERT, UPDATE, DELETE ON delivery TO :service_role;
