-- name: accounts_fitting
-- Accounts of the book $1 whose path is in the range from $2 to before $3 and matches the regular expression $4. At most $5.
SELECT id FROM account WHERE book = $1 AND path >= $2 AND path < $3 AND path ~ $4 ORDER BY path LIMIT $5;

-- name: reach
-- How far down the entries of the accounts $1 can be read, between the sequences $2 (excluded) and $3, if at most $4 are read per account and side.
-- That is the highest sequence at which one of them would exceed $4; or $2, if none does.
SELECT coalesce(max(s.sequence), $2) FROM unnest($1::uuid[]) AS k (id)
CROSS JOIN LATERAL (SELECT o.number FROM account AS o WHERE o.id = k.id LIMIT 1) AS a
CROSS JOIN LATERAL (
    (SELECT sequence FROM transfer WHERE debit_number = a.number AND sequence > $2 AND sequence <= $3 ORDER BY sequence DESC OFFSET $4 LIMIT 1)
    UNION ALL
    (SELECT sequence FROM transfer WHERE credit_number = a.number AND sequence > $2 AND sequence <= $3 ORDER BY sequence DESC OFFSET $4 LIMIT 1)
) AS s;

-- name: found_of
-- Transfers of the accounts $4 after the sequence $2 up to $3, newest first, that match the filters $5 to $14 (null: any).
WITH near AS (
    SELECT DISTINCT s.sequence FROM unnest($4::uuid[]) AS k (id)
    CROSS JOIN LATERAL (SELECT o.number FROM account AS o WHERE o.id = k.id LIMIT 1) AS a
    CROSS JOIN LATERAL (
        SELECT sequence FROM transfer WHERE debit_number = a.number AND sequence > $2 AND sequence <= $3
        UNION ALL
        SELECT sequence FROM transfer WHERE credit_number = a.number AND sequence > $2 AND sequence <= $3
    ) AS s
)
SELECT t.*, d.normal_side = 'debit' AS dr_debit_normal, d.path AS dr_path, c.normal_side = 'debit' AS cr_debit_normal, c.path AS cr_path,
    d.id = ANY($4) AS dr_fits, c.id = ANY($4) AS cr_fits
FROM near AS n
CROSS JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = $1 AND o.sequence = n.sequence LIMIT 1) AS t
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.number = t.debit_number LIMIT 1) AS d
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.number = t.credit_number LIMIT 1) AS c
WHERE ($5::text IS NULL OR t.kind = $5) AND ($6::text IS NULL OR t.code = $6) AND ($7::text IS NULL OR t.currency = $7)
    AND ($8::bigint IS NULL OR t.amount >= $8) AND ($9::bigint IS NULL OR t.amount <= $9)
    AND ($10::text IS NULL OR t.metadata::jsonb ->> $10 = $11)
    AND ($13::timestamptz IS NULL OR coalesce(t.effective_at, t.recorded_at) >= $13)
    AND ($14::timestamptz IS NULL OR coalesce(t.effective_at, t.recorded_at) < $14)
    AND ($12::text IS NULL OR (SELECT x.reference FROM transaction AS x WHERE x.book = t.book AND x.id = t.transaction) = $12)
ORDER BY t.sequence DESC LIMIT $15;

-- name: found
-- Transfers of the book $1 after the sequence $2 up to $3, newest first, that match the filters $4 to $13 (null: any), and of which an account has a
-- path in the range from $15 to before $16 that matches the regular expression $17 (null: any).
SELECT t.*, d.normal_side = 'debit' AS dr_debit_normal, d.path AS dr_path, c.normal_side = 'debit' AS cr_debit_normal, c.path AS cr_path,
    $15::text IS NULL OR coalesce(d.path >= $15 AND d.path < $16 AND d.path ~ $17, false) AS dr_fits,
    $15::text IS NULL OR coalesce(c.path >= $15 AND c.path < $16 AND c.path ~ $17, false) AS cr_fits
FROM transfer AS t
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.number = t.debit_number LIMIT 1) AS d
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.number = t.credit_number LIMIT 1) AS c
WHERE t.book = $1 AND t.sequence > $2 AND t.sequence <= $3
    AND ($4::text IS NULL OR t.kind = $4) AND ($5::text IS NULL OR t.code = $5) AND ($6::text IS NULL OR t.currency = $6)
    AND ($7::bigint IS NULL OR t.amount >= $7) AND ($8::bigint IS NULL OR t.amount <= $8)
    AND ($9::text IS NULL OR t.metadata::jsonb ->> $9 = $10)
    AND ($12::timestamptz IS NULL OR coalesce(t.effective_at, t.recorded_at) >= $12)
    AND ($13::timestamptz IS NULL OR coalesce(t.effective_at, t.recorded_at) < $13)
    AND ($11::text IS NULL OR (SELECT x.reference FROM transaction AS x WHERE x.book = t.book AND x.id = t.transaction) = $11)
    AND ($15::text IS NULL OR d.path >= $15 AND d.path < $16 AND d.path ~ $17 OR c.path >= $15 AND c.path < $16 AND c.path ~ $17)
ORDER BY t.sequence DESC LIMIT $14;

-- name: referred
-- The range of the transactions with the reference $2: their transfers are after the first sequence, up to the second.
SELECT min(first) - 1, max(last) FROM transaction WHERE book = $1 AND reference = $2;

-- name: before_cut
-- The sequence before the transaction that the sequence $2 would cut in two. No row if it cuts none.
SELECT x.first - 1 FROM (SELECT first, last FROM transaction WHERE book = $1 AND first <= $2 ORDER BY first DESC LIMIT 1) AS x WHERE x.last > $2;

-- name: transactions_reach
-- How far down from the sequence $3 (excluded) transactions can be read if at most $4 are read; at least $2.
SELECT coalesce((SELECT first FROM transaction WHERE book = $1 AND first > $2 AND first < $3 ORDER BY first DESC OFFSET $4 LIMIT 1), $2);

-- name: transactions_found
-- Transactions of the book $1 that begin after the sequence $2 and before $3, newest first. They match the filters $4 to $8 (null: any). If $9, they
-- also have a transfer that matches the filters $10 to $18 (null: any).
SELECT x.book, x.id, x.first, x.last, x.recorded_at, x.effective_at, x.reference, x.description, x.metadata, x.reverses, x.exchanges
FROM transaction AS x
WHERE x.book = $1 AND x.first > $2 AND x.first < $3
    AND ($4::text IS NULL OR x.metadata::jsonb ->> $4 = $5) AND ($6::text IS NULL OR x.reference = $6)
    AND ($7::timestamptz IS NULL OR coalesce(x.effective_at, x.recorded_at) >= $7)
    AND ($8::timestamptz IS NULL OR coalesce(x.effective_at, x.recorded_at) < $8)
    AND (NOT $9::boolean OR EXISTS (
        SELECT FROM transfer AS t
        CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.number = t.debit_number LIMIT 1) AS d
        CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.number = t.credit_number LIMIT 1) AS c
        WHERE t.book = $1 AND t.sequence BETWEEN x.first AND x.last
            AND ($10::text IS NULL OR t.kind = $10) AND ($11::text IS NULL OR t.code = $11) AND ($12::text IS NULL OR t.currency = $12)
            AND ($13::bigint IS NULL OR t.amount >= $13) AND ($14::bigint IS NULL OR t.amount <= $14)
            AND ($15::uuid IS NULL OR d.id = $15 OR c.id = $15)
            AND ($16::text IS NULL OR d.path >= $16 AND d.path < $17 AND d.path ~ $18 OR c.path >= $16 AND c.path < $17 AND c.path ~ $18)
    ))
ORDER BY x.first DESC LIMIT $19;
