-- name: insert_tokens
-- New tokens.
INSERT INTO token (id, tenant, type, created_by, created_at, brand, bin, last4, exp_month, exp_year, country, fingerprint, sealed)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
    $9::smallint[], $10::smallint[], $11::text[], $12::text[], $13::bytea[]
);

-- name: count_numbers
-- Counts those of these numbers that are new to their tenant, by how they look, and gives the day's count of each look. A statement, and a
-- transaction, of its own: what was tried stays counted whatever becomes of it, and nobody is judged by a count that others can't see yet.
WITH wanted AS (
    SELECT look, count(*) FILTER (WHERE NOT known) AS new
    FROM (
        SELECT DISTINCT w.look, w.tenant, w.fingerprint,
            EXISTS (SELECT FROM token AS t WHERE t.tenant = w.tenant AND t.fingerprint = w.fingerprint) AS known
        FROM unnest($2::text[], $3::text[], $4::bytea[]) AS w (tenant, fingerprint, look)
    ) AS numbers
    GROUP BY look
), counted AS (
    INSERT INTO number_count (day, look, taken)
    SELECT $1::date, look, new FROM wanted WHERE new > 0 ORDER BY look
    ON CONFLICT (day, look) DO UPDATE SET taken = number_count.taken + excluded.taken
    RETURNING look, taken
)
SELECT look, taken FROM counted
UNION ALL
SELECT c.look, c.taken FROM wanted AS w JOIN number_count AS c ON c.day = $1 AND c.look = w.look WHERE w.new = 0;

-- name: forget_counts
-- Forgets the counts of days that are over, a page at a time.
DELETE FROM number_count
WHERE (day, look) IN (SELECT day, look FROM number_count WHERE day < $1::date LIMIT $2 FOR UPDATE SKIP LOCKED);

-- name: tokens
-- Tokens by tenant and id; another tenant's are not found.
SELECT t.id, t.tenant, t.type, t.created_at, t.brand, t.bin, t.last4, t.exp_month, t.exp_year, t.country, t.fingerprint, t.sealed
FROM unnest($1::text[], $2::uuid[]) AS wanted (tenant, id)
JOIN token AS t ON t.id = wanted.id AND t.tenant = wanted.tenant;

-- name: token_for_destruction
-- One token, locked, so that it is destroyed once.
SELECT type, destroyed_at FROM token WHERE tenant = $1 AND id = $2 FOR UPDATE;

-- name: destroy_token
-- Takes everything away from a token but that it was there.
UPDATE token
SET brand = NULL, bin = NULL, last4 = NULL, exp_month = NULL, exp_year = NULL, country = NULL, fingerprint = NULL,
    sealed = NULL, destroyed_at = $3
WHERE tenant = $1 AND id = $2 AND destroyed_at IS NULL;

-- name: numbers_for_update
-- The sealed numbers of tokens that have one and that nobody destroys just now, for a rotation of their keys.
SELECT t.id AS key, t.tenant, t.sealed
FROM unnest($1::text[], $2::uuid[]) AS wanted (tenant, id)
JOIN token AS t ON t.id = wanted.id AND t.tenant = wanted.tenant
WHERE t.sealed IS NOT NULL
ORDER BY t.id
FOR UPDATE OF t SKIP LOCKED;

-- name: save_numbers
-- The same numbers, sealed anew.
UPDATE token AS t SET sealed = n.sealed FROM unnest($1::uuid[], $2::bytea[]) AS n (id, sealed)
WHERE t.id = n.id AND t.sealed IS NOT NULL;
