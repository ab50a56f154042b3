-- name: claim
-- Takes the keys that nobody has. Sorted, so that two batches never wait for each other; a key that another transaction has just
-- taken is waited for, at most for lock_timeout. Returns the places (1..n) of those taken.
WITH wanted AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::uuid[])
        WITH ORDINALITY AS w (tenant, client_id, route, key, digest, fields, resource, place)
), taken AS (
    INSERT INTO idempotency (tenant, client_id, route, key, digest, fields, resource)
    SELECT tenant, client_id, route, key, digest, fields, resource FROM wanted
    ORDER BY tenant, client_id, route, key
    ON CONFLICT DO NOTHING
    RETURNING tenant, client_id, route, key
)
SELECT place FROM wanted JOIN taken USING (tenant, client_id, route, key);

-- name: claimed
-- What is stored under keys that others have.
SELECT w.place, i.digest, i.fields, i.resource, i.status, i.body
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS w (tenant, client_id, route, key, place)
JOIN idempotency AS i USING (tenant, client_id, route, key);

-- name: complete
-- Stores answers. An answer that is there already stays. Returns the places of those stored now.
UPDATE idempotency AS i SET status = a.status, body = a.body
FROM (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::bytea[])
        WITH ORDINALITY AS u (tenant, client_id, route, key, status, body, place)
) AS a
WHERE i.tenant = a.tenant AND i.client_id = a.client_id AND i.route = a.route AND i.key = a.key AND i.status IS NULL
RETURNING a.place;

-- name: withdraw
-- Puts another answer in the place of those that tell of these resources, and leaves nothing of their inputs.
UPDATE idempotency SET status = $3, body = $4, digest = '', fields = ''
WHERE tenant = $1 AND resource = ANY($2::uuid[]);

-- name: purge
-- Forgets answered keys that are older than the retention, a page at a time.
DELETE FROM idempotency
WHERE (tenant, client_id, route, key) IN (
    SELECT tenant, client_id, route, key FROM idempotency WHERE at < $1 AND status IS NOT NULL ORDER BY at LIMIT $2
    FOR UPDATE SKIP LOCKED
);
