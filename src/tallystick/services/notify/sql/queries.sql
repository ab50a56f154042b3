-- name: insert_endpoint
-- A new endpoint.
INSERT INTO endpoint (id, tenant, url, events, description, sealed_secret, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: tenant_turn
-- Those who add endpoints to one tenant take turns, so that their number can be limited.
SELECT pg_advisory_xact_lock(hashtextextended($1, 0));

-- name: count_endpoints
-- How many a tenant has.
SELECT count(*) FROM endpoint WHERE tenant = $1 AND deleted_at IS NULL;

-- name: endpoints
-- A page of a tenant's endpoints, newest first.
SELECT * FROM endpoint WHERE tenant = $1 AND deleted_at IS NULL AND ($2::uuid IS NULL OR id < $2) ORDER BY id DESC LIMIT $3;

-- name: endpoint
-- One endpoint of a tenant.
SELECT * FROM endpoint WHERE id = $1 AND tenant = $2 AND deleted_at IS NULL;

-- name: endpoints_by_id
-- The endpoints of deliveries that are to be sent.
SELECT * FROM endpoint WHERE id = ANY($1::uuid[]) AND deleted_at IS NULL;

-- name: listening
-- The enabled endpoints of some tenants.
SELECT id, tenant, events FROM endpoint WHERE tenant = ANY($1::text[]) AND deleted_at IS NULL AND disabled_reason IS NULL;

-- name: unheard
-- Moves the inbox of ($1, $2) from $3 to $4 when none of the tenants $5 has an enabled endpoint.
UPDATE inbox SET last_seq = $4, at = now()
WHERE source = $1 AND consumer = $2 AND last_seq = $3
  AND NOT EXISTS (
    SELECT FROM endpoint WHERE tenant = ANY($5::text[]) AND deleted_at IS NULL AND disabled_reason IS NULL
  );

-- name: delete_endpoint
-- From now on there is no such endpoint; its secret is gone at once.
UPDATE endpoint SET deleted_at = $3, sealed_secret = '' WHERE id = $1 AND tenant = $2 AND deleted_at IS NULL RETURNING id;

-- name: disabling_turn
-- Those who disable one endpoint take turns: the first takes the others' deliveries along (drop_pending).
SELECT FROM endpoint WHERE id = $1 FOR UPDATE;

-- name: disable
-- Disables an endpoint.
UPDATE endpoint SET disabled_reason = $3 WHERE id = $1 AND tenant = $2 AND deleted_at IS NULL;

-- name: enable
-- Enables an endpoint that was disabled.
UPDATE endpoint SET disabled_reason = NULL
WHERE id = $1 AND tenant = $2 AND deleted_at IS NULL AND disabled_reason IS NOT NULL;

-- name: drop_pending
-- What waited for an endpoint that was disabled has failed, for the reason $2. So has what is under way to it, until its answer comes
-- (save_dropped).
UPDATE delivery SET status = 'failed', next_at = NULL, last_error = $2 WHERE endpoint = $1 AND status = 'pending';

-- name: insert_deliveries
-- Events for endpoints. The same event goes to an endpoint once.
INSERT INTO delivery (id, tenant, endpoint, fact, type, body, created_at, next_at)
SELECT id, tenant, endpoint, fact, type, body, $7, $7
FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::bytea[])
    AS d (id, tenant, endpoint, fact, type, body)
ON CONFLICT ON CONSTRAINT delivery_once DO NOTHING;

-- name: take_due
-- Deliveries that are due at $1, leased to whoever asks until $2: at most $3, of an endpoint at most $4, of a tenant at most $5, none
-- of the endpoints $6 and tenants $7. One that another replica takes at the same moment is left to it.
WITH waiting AS MATERIALIZED (
    SELECT id, tenant, endpoint, next_at FROM delivery
    WHERE next_at <= $1 AND endpoint <> ALL($6::uuid[]) AND tenant <> ALL($7::text[])
    ORDER BY next_at LIMIT 500
), placed AS (
    SELECT id, tenant, next_at, row_number() OVER (PARTITION BY endpoint ORDER BY next_at, id) AS place FROM waiting
), fair AS (
    SELECT id, next_at, row_number() OVER (PARTITION BY tenant ORDER BY next_at, id) AS place FROM placed WHERE place <= $4
), chosen AS MATERIALIZED (
    SELECT id FROM fair WHERE place <= $5 ORDER BY next_at, id LIMIT $3
), taken AS MATERIALIZED (
    SELECT d.id FROM delivery d JOIN chosen USING (id) WHERE d.next_at <= $1 FOR UPDATE OF d SKIP LOCKED
)
UPDATE delivery SET next_at = $2 FROM taken WHERE delivery.id = taken.id
RETURNING delivery.*;

-- name: save_delivery
-- A delivery after an attempt, if the lease under which it was made ($8) still holds.
UPDATE delivery SET status = $2, attempts = $3, next_at = $4, delivered_at = $5, last_status = $6, last_error = $7
WHERE id = $1 AND status = 'pending' AND next_at = $8;

-- name: save_dropped
-- A delivery after an attempt during which its endpoint was disabled (drop_pending), if that was its attempt number $3 and it is still
-- failed for the reason $7.
UPDATE delivery SET status = $2, attempts = $3, delivered_at = $4, last_status = $5, last_error = $6
WHERE id = $1 AND status = 'failed' AND attempts = $3 - 1 AND last_error = $7;

-- name: deliveries
-- A page of an endpoint's deliveries, newest first: those of one status, or all.
SELECT * FROM delivery
WHERE endpoint = $1 AND tenant = $2 AND ($3::uuid IS NULL OR id < $3) AND ($4::text IS NULL OR status = $4)
ORDER BY id DESC LIMIT $5;

-- name: failed_deliveries
-- The same of those that failed.
SELECT * FROM delivery
WHERE endpoint = $1 AND tenant = $2 AND ($3::uuid IS NULL OR id < $3) AND status = 'failed'
ORDER BY id DESC LIMIT $4;

-- name: replay_delivery
-- Sends a delivery again, from the first attempt on.
UPDATE delivery SET status = 'pending', attempts = 0, next_at = $4, delivered_at = NULL, last_status = NULL, last_error = NULL
WHERE id = $1 AND endpoint = $2 AND tenant = $3
RETURNING *;

-- name: purge_old
-- Forgets what was made before $1 (its ids sort before $2) and came to its end.
DELETE FROM delivery
WHERE id IN (SELECT id FROM delivery WHERE id < $2 AND created_at < $1 AND status <> 'pending' ORDER BY id LIMIT $3);

-- name: purge_deleted
-- Forgets deliveries to endpoints that were deleted.
DELETE FROM delivery
WHERE id IN (SELECT d.id FROM endpoint e JOIN delivery d ON d.endpoint = e.id WHERE e.deleted_at IS NOT NULL LIMIT $1);

-- name: purge_endpoints
-- Forgets deleted endpoints that nothing belongs to any more.
DELETE FROM endpoint e
WHERE deleted_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.endpoint = e.id);

-- name: secrets_under
-- Signing secrets under an older key of their tenant, for the rotation of that.
SELECT id AS key, tenant, sealed_secret AS sealed FROM endpoint
WHERE substring(sealed_secret FROM 1 FOR 13) = $1 AND ($2::uuid IS NULL OR id > $2)
ORDER BY id LIMIT $3
FOR UPDATE SKIP LOCKED;

-- name: count_secrets_under
-- How many there are.
SELECT count(*) FROM endpoint WHERE substring(sealed_secret FROM 1 FOR 13) = $1;

-- name: save_secrets
-- The same secrets, sealed anew.
UPDATE endpoint AS e SET sealed_secret = n.sealed FROM unnest($1::uuid[], $2::bytea[]) AS n (id, sealed)
WHERE e.id = n.id AND e.deleted_at IS NULL;

-- name: answers_under
-- Stored answers that hold a secret, under an older key of their tenant.
SELECT resource AS key, tenant, body AS sealed FROM idempotency
WHERE substring(body FROM 1 FOR 13) = $1 AND resource IS NOT NULL AND ($2::uuid IS NULL OR resource > $2)
ORDER BY resource LIMIT $3
FOR UPDATE SKIP LOCKED;

-- name: count_answers_under
-- How many there are.
SELECT count(*) FROM idempotency WHERE substring(body FROM 1 FOR 13) = $1;

-- name: save_answers
-- The same answers, sealed anew. An endpoint is made by one request, so its answer is found by it.
UPDATE idempotency AS i SET body = n.sealed FROM unnest($1::uuid[], $2::bytea[]) AS n (resource, sealed)
WHERE i.resource = n.resource;
