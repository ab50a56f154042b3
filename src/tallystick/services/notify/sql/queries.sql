-- name: insert_endpoint
-- A new endpoint.
INSERT INTO endpoint (id, tenant, url, events, description, sealed_secret, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: count_endpoints
-- How many a tenant has.
SELECT count(*) FROM endpoint WHERE tenant = $1;

-- name: endpoints
-- A page of a tenant's endpoints, newest first.
SELECT * FROM endpoint WHERE tenant = $1 AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3;

-- name: endpoint
-- One endpoint of a tenant.
SELECT * FROM endpoint WHERE id = $1 AND tenant = $2;

-- name: endpoint_by_id
-- One endpoint, for a delivery that names it.
SELECT * FROM endpoint WHERE id = $1;

-- name: listening
-- The enabled endpoints of some tenants.
SELECT id, tenant, events FROM endpoint WHERE tenant = ANY($1::text[]) AND disabled_reason IS NULL;

-- name: delete_endpoint
-- Forgets an endpoint and what was on its way to it.
DELETE FROM endpoint WHERE id = $1 AND tenant = $2 RETURNING id;

-- name: set_disabled
-- Disables an endpoint, or enables it again ($2 null).
UPDATE endpoint SET disabled_reason = $2 WHERE id = $1 RETURNING *;

-- name: drop_pending
-- What waited for an endpoint that was disabled has failed.
UPDATE delivery SET status = 'failed', next_at = NULL, last_error = 'the endpoint was disabled'
WHERE endpoint = $1 AND status = 'pending';

-- name: insert_deliveries
-- Events for endpoints. The same event goes to an endpoint once.
INSERT INTO delivery (id, tenant, endpoint, fact, type, body, created_at, next_at)
SELECT id, tenant, endpoint, fact, type, body, $7, $7
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::bytea[])
    AS d (id, tenant, endpoint, fact, type, body)
ON CONFLICT ON CONSTRAINT delivery_once DO NOTHING;

-- name: take_due
-- Deliveries that are due, leased to whoever asks until $2.
UPDATE delivery SET next_at = $2
WHERE id IN (SELECT id FROM delivery WHERE next_at <= $1 ORDER BY next_at LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING *;

-- name: save_delivery
-- A delivery after an attempt.
UPDATE delivery SET status = $2, attempts = $3, next_at = $4, delivered_at = $5, last_status = $6, last_error = $7 WHERE id = $1;

-- name: deliveries
-- A page of an endpoint's deliveries, newest first.
SELECT * FROM delivery WHERE endpoint = $1 AND tenant = $2 AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4;

-- name: replay_delivery
-- Sends a delivery again, from the first attempt on.
UPDATE delivery SET status = 'pending', attempts = 0, next_at = $4, delivered_at = NULL, last_status = NULL, last_error = NULL
WHERE id = $1 AND endpoint = $2 AND tenant = $3
RETURNING *;

-- name: purge_deliveries
-- Forgets what came to its end before $1.
DELETE FROM delivery WHERE id IN (SELECT id FROM delivery WHERE status <> 'pending' AND created_at < $1 LIMIT $2);
