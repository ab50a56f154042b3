-- name: accounts_fitting
-- Accounts of the book $1 whose path is from $2 to before $3 and as the regular expression $4 says, up to $5 of them.
SELECT id FROM account WHERE book = $1 AND path >= $2 AND path < $3 AND path ~ $4 ORDER BY path LIMIT $5;

-- name: reach
-- How far down one can look at the accounts $1 between the sequences $2 (not included) and $3 and meet at most $4 transfers of each side of
-- each: the highest of their $4th ones, or $2.
SELECT coalesce(max(s.sequence), $2) FROM unnest($1::uuid[]) AS a (id)
CROSS JOIN LATERAL (
    (SELECT sequence FROM transfer WHERE debit_account = a.id AND sequence > $2 AND sequence <= $3 ORDER BY sequence DESC OFFSET $4 LIMIT 1)
    UNION ALL
    (SELECT sequence FROM transfer WHERE credit_account = a.id AND sequence > $2 AND sequence <= $3 ORDER BY sequence DESC OFFSET $4 LIMIT 1)
) AS s;

-- name: found_of
-- Transfers of the accounts $4 after the sequence $2 up to $3, newest first, that are as $5 to $11 say (null: any).
WITH near AS (
    SELECT DISTINCT s.sequence FROM unnest($4::uuid[]) AS a (id)
    CROSS JOIN LATERAL (
        SELECT sequence FROM transfer WHERE debit_account = a.id AND sequence > $2 AND sequence <= $3
        UNION ALL
        SELECT sequence FROM transfer WHERE credit_account = a.id AND sequence > $2 AND sequence <= $3
    ) AS s
)
SELECT t.*, d.normal_side = 'debit' AS dr_debit_normal, d.path AS dr_path, c.normal_side = 'debit' AS cr_debit_normal, c.path AS cr_path,
    t.debit_account = ANY($4) AS dr_fits, t.credit_account = ANY($4) AS cr_fits
FROM near AS n
CROSS JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = $1 AND o.sequence = n.sequence LIMIT 1) AS t
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.id = t.debit_account LIMIT 1) AS d
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.id = t.credit_account LIMIT 1) AS c
WHERE ($5::text IS NULL OR t.kind = $5) AND ($6::text IS NULL OR t.code = $6) AND ($7::text IS NULL OR t.currency = $7)
    AND ($8::bigint IS NULL OR t.amount >= $8) AND ($9::bigint IS NULL OR t.amount <= $9)
    AND ($10::text IS NULL OR t.metadata::jsonb ->> $10 = $11)
ORDER BY t.sequence DESC LIMIT $12;

-- name: found
-- Transfers of the book $1 after the sequence $2 up to $3, newest first, of an account whose path is from $12 to before $13 and as the
-- regular expression $14 says (null: any), that are as $4 to $10 say (null: any).
SELECT t.*, d.normal_side = 'debit' AS dr_debit_normal, d.path AS dr_path, c.normal_side = 'debit' AS cr_debit_normal, c.path AS cr_path,
    $12::text IS NULL OR coalesce(d.path >= $12 AND d.path < $13 AND d.path ~ $14, false) AS dr_fits,
    $12::text IS NULL OR coalesce(c.path >= $12 AND c.path < $13 AND c.path ~ $14, false) AS cr_fits
FROM transfer AS t
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.id = t.debit_account LIMIT 1) AS d
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.id = t.credit_account LIMIT 1) AS c
WHERE t.book = $1 AND t.sequence > $2 AND t.sequence <= $3
    AND ($4::text IS NULL OR t.kind = $4) AND ($5::text IS NULL OR t.code = $5) AND ($6::text IS NULL OR t.currency = $6)
    AND ($7::bigint IS NULL OR t.amount >= $7) AND ($8::bigint IS NULL OR t.amount <= $8)
    AND ($9::text IS NULL OR t.metadata::jsonb ->> $9 = $10)
    AND ($12::text IS NULL OR d.path >= $12 AND d.path < $13 AND d.path ~ $14 OR c.path >= $12 AND c.path < $13 AND c.path ~ $14)
ORDER BY t.sequence DESC LIMIT $11;
