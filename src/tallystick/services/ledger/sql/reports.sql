-- name: booked
-- What moved the posted balance of the account $1 after the sequence $2 up to $3, oldest first: the oldest of each side, merged.
SELECT e.sequence, e.transfer, e.side, e.other, e.kind, e.amount, e.recorded_at, e.code, e.debits_posted, e.credits_posted,
    e.effective_at, e.transaction, x.reference, x.description
FROM (
    (SELECT book, sequence, id AS transfer, 'debit' AS side, credit_account AS other, kind, amount, recorded_at, code,
        dr_debits_posted AS debits_posted, dr_credits_posted AS credits_posted, coalesce(effective_at, recorded_at) AS effective_at, transaction
    FROM transfer WHERE debit_account = $1 AND sequence > $2 AND sequence <= $3 AND kind IN ('post', 'capture', 'reverse')
    ORDER BY sequence LIMIT $4)
    UNION ALL
    (SELECT book, sequence, id, 'credit', debit_account, kind, amount, recorded_at, code, cr_debits_posted, cr_credits_posted,
        coalesce(effective_at, recorded_at), transaction
    FROM transfer WHERE credit_account = $1 AND sequence > $2 AND sequence <= $3 AND kind IN ('post', 'capture', 'reverse')
    ORDER BY sequence LIMIT $4)
) AS e
LEFT JOIN LATERAL (SELECT o.* FROM transaction AS o WHERE o.book = e.book AND o.id = e.transaction LIMIT 1) AS x ON true
ORDER BY e.sequence LIMIT $4;

-- name: booked_count
-- How many of them there are, debits and credits.
SELECT (SELECT count(*) FROM transfer
        WHERE debit_account = $1 AND sequence > $2 AND sequence <= $3 AND kind IN ('post', 'capture', 'reverse')),
    (SELECT count(*) FROM transfer
        WHERE credit_account = $1 AND sequence > $2 AND sequence <= $3 AND kind IN ('post', 'capture', 'reverse'));

-- name: account_lines
-- The accounts of the book $1 and their totals after the sequence $2, by id, after the account $3.
SELECT id, path, name, kind, currency, normal_side, version, debits_posted, credits_posted
FROM account_totals_at($1, $2) WHERE $3::uuid IS NULL OR id > $3 ORDER BY id LIMIT $4;

-- name: group_lines
-- The same, added up by kind, currency, and the first $3 segments of the path (0: not by path). Numeric, since sums of totals may pass a bigint.
SELECT kind, CASE WHEN $3 = 0 THEN NULL ELSE array_to_string((string_to_array(path, ':'))[1:$3], ':') END AS path, currency,
    count(*) AS accounts, sum(debits_posted) AS debits_posted, sum(credits_posted) AS credits_posted
FROM account_totals_at($1, $2) GROUP BY 1, 2, 3 ORDER BY 3, 1, 2 NULLS FIRST LIMIT $4;

-- name: group_lines_effective
-- The same by effective time: as they are known now to have been at the instant $2.
SELECT kind, CASE WHEN $3 = 0 THEN NULL ELSE array_to_string((string_to_array(path, ':'))[1:$3], ':') END AS path, currency,
    count(*) AS accounts, sum(debits_posted) AS debits_posted, sum(credits_posted) AS credits_posted
FROM account_totals_effective($1, $2) GROUP BY 1, 2, 3 ORDER BY 3, 1, 2 NULLS FIRST LIMIT $4;

-- name: many_accounts
-- How many accounts the book $1 has, counted up to $2.
SELECT count(*) FROM (SELECT FROM account WHERE book = $1 LIMIT $2) AS a;

-- name: dated_back
-- What was recorded on the account $1 after the sequence $3, of all that is effective up to the instant $2: the $4 newest, newest first. Each has
-- the row of its effective time there; that of when it was recorded is later.
SELECT e.sequence, e.transfer, e.side, e.other, e.kind, e.amount, e.released, e.currency, e.recorded_at, e.code, e.version,
    e.debits_pending, e.debits_posted, e.credits_pending, e.credits_posted, e.transaction, e.effective_at
FROM (SELECT book, sequence FROM adjustment WHERE account = $1 AND at <= $2 AND sequence > $3 ORDER BY sequence DESC LIMIT $4) AS a
CROSS JOIN LATERAL (SELECT o.* FROM entry AS o WHERE o.book = a.book AND o.sequence = a.sequence AND o.account = $1 LIMIT 1) AS e
ORDER BY a.sequence DESC;

-- name: dated_back_before
-- How many of them there are before the sequence $4, and what they add.
SELECT count(*), coalesce(sum(debits), 0)::bigint, coalesce(sum(credits), 0)::bigint
FROM adjustment WHERE account = $1 AND at <= $2 AND sequence > $3 AND sequence < $4;

-- name: open_holds
-- Holds that were made on the account $2 up to the sequence $3 and are open now, with what was left of them at that sequence.
SELECT h.id, t.sequence, h.debit_account, h.credit_account, t.amount + coalesce(x.increased, 0) AS amount, h.expires_at, t.recorded_at,
    t.amount - coalesce(x.released, 0) AS remaining, coalesce(x.captured, 0) AS captured
FROM (
    SELECT * FROM hold WHERE debit_account = $2 AND remaining > 0
    UNION ALL
    SELECT * FROM hold WHERE credit_account = $2 AND remaining > 0
) AS h
CROSS JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = $1 AND o.id = h.id LIMIT 1) AS t
CROSS JOIN LATERAL (
    SELECT sum(d.released)::bigint AS released, (sum(d.amount) FILTER (WHERE d.kind = 'capture'))::bigint AS captured,
        (sum(d.amount) FILTER (WHERE d.kind = 'increase'))::bigint AS increased
    FROM transfer AS d WHERE d.book = $1 AND d.target = h.id AND d.sequence <= $3
) AS x
WHERE h.book = $1 AND t.sequence <= $3
ORDER BY t.sequence LIMIT $4;

-- name: closed_holds
-- Holds of the account $2 that were open after the sequence $3 and are closed now: found among the $4 last entries up to there, where they
-- were made, and among the $4 first ones after it, where they were drawn on.
WITH near AS (
    (SELECT o.id FROM (
        SELECT id, kind FROM transfer WHERE debit_account = $2 AND sequence <= $3 ORDER BY sequence DESC LIMIT $4) AS o WHERE o.kind = 'hold')
    UNION
    (SELECT o.id FROM (
        SELECT id, kind FROM transfer WHERE credit_account = $2 AND sequence <= $3 ORDER BY sequence DESC LIMIT $4) AS o WHERE o.kind = 'hold')
    UNION
    (SELECT o.target FROM (
        SELECT target, kind FROM transfer WHERE debit_account = $2 AND sequence > $3 ORDER BY sequence LIMIT $4) AS o
    WHERE o.kind IN ('increase', 'capture', 'void', 'expire'))
    UNION
    (SELECT o.target FROM (
        SELECT target, kind FROM transfer WHERE credit_account = $2 AND sequence > $3 ORDER BY sequence LIMIT $4) AS o
    WHERE o.kind IN ('increase', 'capture', 'void', 'expire'))
)
SELECT h.id, t.sequence, h.debit_account, h.credit_account, t.amount + coalesce(x.increased, 0) AS amount, h.expires_at, t.recorded_at,
    t.amount - coalesce(x.released, 0) AS remaining, coalesce(x.captured, 0) AS captured
FROM near AS n
CROSS JOIN LATERAL (SELECT o.* FROM hold AS o WHERE o.book = $1 AND o.id = n.id LIMIT 1) AS h
CROSS JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = $1 AND o.id = n.id LIMIT 1) AS t
CROSS JOIN LATERAL (
    SELECT sum(d.released)::bigint AS released, (sum(d.amount) FILTER (WHERE d.kind = 'capture'))::bigint AS captured,
        (sum(d.amount) FILTER (WHERE d.kind = 'increase'))::bigint AS increased
    FROM transfer AS d WHERE d.book = $1 AND d.target = n.id AND d.sequence <= $3
) AS x
WHERE h.remaining = 0 AND t.sequence <= $3 AND t.amount > coalesce(x.released, 0)
ORDER BY t.sequence;
