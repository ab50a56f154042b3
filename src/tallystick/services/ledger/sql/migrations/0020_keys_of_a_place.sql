-- An idempotency key belongs to its path with the ids in it, as at payments, where it used to belong to the path's pattern with the ids as a part
-- of the input. What was made under a key knows its id: with that, the key is found where it is looked for now. Its digests were of the
-- input with the id, so what comes with it gets the stored answer, whatever its body. Keys of what was refused or proposed are free.
WITH made AS (
    SELECT i.tenant, i.client_id, i.route, i.key, min(m.place) AS place
    FROM idempotency AS i
    JOIN LATERAL (
        SELECT CASE WHEN t.transaction IS NULL THEN 'trf_' ELSE 'txn_' END AS kind, coalesce(x.reverses, t.target) AS id
        FROM book AS b JOIN transfer_row AS t ON t.book = b.id AND t.id = i.resource
        LEFT JOIN transaction AS x ON x.book = t.book AND x.id = t.transaction
        WHERE b.tenant = i.tenant
    ) AS target ON target.id IS NOT NULL
    -- An id as it is written: 128 bits as 26 characters of five bits each.
    CROSS JOIN LATERAL (
        SELECT target.kind || string_agg(substr('0123456789abcdefghjkmnpqrstvwxyz', substr(bits, 5 * n + 1, 5)::bit(5)::integer + 1, 1), '' ORDER BY n) AS place
        FROM (SELECT '00' || ('x' || replace(target.id::text, '-', ''))::bit(128)::text AS bits) AS id, generate_series(0, 25) AS n
    ) AS m
    WHERE i.route LIKE 'POST /v1/%/{id}/%'
    GROUP BY i.tenant, i.client_id, i.route, i.key
)
UPDATE idempotency AS i SET route = replace(i.route, '{id}', made.place), digest = '', fields = ''
FROM made
WHERE (i.tenant, i.client_id, i.route, i.key) = (made.tenant, made.client_id, made.route, made.key);
