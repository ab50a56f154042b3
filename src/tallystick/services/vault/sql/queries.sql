-- name: insert_tokens
-- New tokens.
INSERT INTO token (id, tenant, type, created_by, created_at, brand, bin, last4, exp_month, exp_year, country, fingerprint, sealed)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[],
    $9::smallint[], $10::smallint[], $11::text[], $12::text[], $13::bytea[]
);

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
