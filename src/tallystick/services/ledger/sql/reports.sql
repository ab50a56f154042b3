-- name: booked
-- The transfers that moved the posted balance of the account $1, after the sequence $2 up to $3, oldest first. The oldest of each side are merged.
SELECT e.sequence, e.transfer, e.side, e.other, e.kind, e.amount, e.recorded_at, e.code, e.debits_posted, e.credits_posted,
    e.effective_at, e.transaction, x.reference, x.description
FROM (
    (SELECT book, sequence, id AS transfer, 'debit' AS side, credit_account AS other, kind, amount, recorded_at, code,
        dr_debits_posted AS debits_posted, dr_credits_posted AS credits_posted, coalesce(effective_at, recorded_at) AS effective_at, transaction
    FROM transfer WHERE debit_number = (SELECT a.number FROM account AS a WHERE a.id = $1) AND sequence > $2 AND sequence <= $3
        AND kind IN ('post', 'capture', 'reverse')
    ORDER BY sequence LIMIT $4)
    UNION ALL
    (SELECT book, sequence, id, 'credit', debit_account, kind, amount, recorded_at, code, cr_debits_posted, cr_credits_posted,
        coalesce(effective_at, recorded_at), transaction
    FROM transfer WHERE credit_number = (SELECT a.number FROM account AS a WHERE a.id = $1) AND sequence > $2 AND sequence <= $3
        AND kind IN ('post', 'capture', 'reverse')
    ORDER BY sequence LIMIT $4)
) AS e
LEFT JOIN LATERAL (SELECT o.* FROM transaction AS o WHERE o.book = e.book AND o.id = e.transaction LIMIT 1) AS x ON true
ORDER BY e.sequence LIMIT $4;

-- name: booked_count
-- The number of debits and of credits among them.
SELECT (SELECT count(*) FROM transfer
        WHERE debit_number = (SELECT a.number FROM account AS a WHERE a.id = $1) AND sequence > $2 AND sequence <= $3
            AND kind IN ('post', 'capture', 'reverse')),
    (SELECT count(*) FROM transfer
        WHERE credit_number = (SELECT a.number FROM account AS a WHERE a.id = $1) AND sequence > $2 AND sequence <= $3
            AND kind IN ('post', 'capture', 'reverse'));

-- name: turn
-- When the sequence $2 of the book $1 and the one after it were recorded; null for one that does not exist.
SELECT (SELECT recorded_at FROM transfer WHERE book = $1 AND sequence = $2 LIMIT 1),
    (SELECT recorded_at FROM transfer WHERE book = $1 AND sequence = $2 + 1 LIMIT 1);

-- name: posted_effective
-- The posted totals of the account $1 of the book $2 in the order of (effective time, sequence), up to the place ($3, $4). Only what was recorded up
-- to the sequence $5 counts, which is not before $4. The result is the sum of: the totals as recorded up to there (s.upto); what was dated back to
-- before $3, from the sums by calendar (j), less what was recorded after $5 and dated back to before $3 (n; what was recorded later but before $3
-- adds nothing); and what was dated back to exactly $3, row by row (p).
SELECT coalesce(t.debits_posted, 0) + j.debits - n.debits + p.debits AS debits,
    coalesce(t.credits_posted, 0) + j.credits - n.credits + p.credits AS credits
FROM (SELECT sequence_at($2, $3::timestamptz - interval '1 microsecond') AS before, sequence_at($2, $3) AS at) AS r
CROSS JOIN LATERAL (SELECT least($5, greatest(r.before, least($4, r.at))) AS upto) AS s
LEFT JOIN LATERAL totals_at($1, $2, s.upto) AS t ON true
CROSS JOIN LATERAL adjusted_at($1, $3::timestamptz - interval '1 microsecond') AS j
CROSS JOIN LATERAL (
    SELECT coalesce(sum(a.debits), 0)::bigint AS debits, coalesce(sum(a.credits), 0)::bigint AS credits FROM adjustment AS a
    WHERE a.account = $1 AND a.sequence > greatest($5, r.before) AND a.at < $3 AND (a.debits > 0 OR a.credits > 0)
) AS n
CROSS JOIN LATERAL (
    SELECT coalesce(sum(a.debits), 0)::bigint AS debits, coalesce(sum(a.credits), 0)::bigint AS credits FROM adjustment AS a
    WHERE a.account = $1 AND a.at = $3 AND a.sequence <= $4
) AS p;

-- name: booked_effective
-- The transfers that moved the posted balance of the account $1 of the book $2, in the order of (effective time, sequence): after the place ($3, $4),
-- effective before $5, recorded up to the sequence $6. Transfers that were not dated back are in this order already. So the result merges the oldest of
-- each side with the oldest of those dated back. If the latter alone fill the page, the former are read only up to the last of them. The
-- totals are 0, since none are stored in this order.
WITH back AS MATERIALIZED (
    SELECT a.at, a.sequence FROM adjustment AS a
    WHERE a.account = $1 AND (a.at, a.sequence) > ($3, $4) AND a.at < $5 AND a.sequence <= $6 AND (a.debits > 0 OR a.credits > 0)
    ORDER BY a.at, a.sequence LIMIT $7
), plain AS MATERIALIZED (
    SELECT greatest(sequence_at($2, $3::timestamptz - interval '1 microsecond'), least($4, sequence_at($2, $3))) AS first,
        least($6, sequence_at($2, CASE WHEN (SELECT count(*) FROM back) = $7 THEN (SELECT max(at) FROM back)
            ELSE $5::timestamptz - interval '1 microsecond' END)) AS last
)
SELECT e.sequence, e.transfer, e.side, e.other, e.kind, e.amount, e.recorded_at, e.code, 0::bigint AS debits_posted,
    0::bigint AS credits_posted, e.effective_at, e.transaction, x.reference, x.description
FROM (
    (SELECT sequence, id AS transfer, 'debit' AS side, credit_account AS other, kind, amount, recorded_at, code, recorded_at AS effective_at,
        transaction
    FROM transfer WHERE debit_number = (SELECT a.number FROM account AS a WHERE a.id = $1)
        AND sequence > (SELECT first FROM plain) AND sequence <= (SELECT last FROM plain) AND effective_at IS NULL AND kind IN ('post', 'capture', 'reverse')
    ORDER BY sequence LIMIT $7)
    UNION ALL
    (SELECT sequence, id, 'credit', debit_account, kind, amount, recorded_at, code, recorded_at, transaction
    FROM transfer WHERE credit_number = (SELECT a.number FROM account AS a WHERE a.id = $1)
        AND sequence > (SELECT first FROM plain) AND sequence <= (SELECT last FROM plain) AND effective_at IS NULL AND kind IN ('post', 'capture', 'reverse')
    ORDER BY sequence LIMIT $7)
    UNION ALL
    SELECT t.sequence, t.id, CASE t.debit_account WHEN $1 THEN 'debit' ELSE 'credit' END,
        CASE t.debit_account WHEN $1 THEN t.credit_account ELSE t.debit_account END, t.kind, t.amount, t.recorded_at, t.code, t.effective_at,
        t.transaction
    FROM back AS b
    CROSS JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = $2 AND o.sequence = b.sequence LIMIT 1) AS t
) AS e
LEFT JOIN LATERAL (SELECT o.* FROM transaction AS o WHERE o.book = $2 AND o.id = e.transaction LIMIT 1) AS x ON true
ORDER BY e.effective_at, e.sequence LIMIT $7;

-- name: booked_effective_count
-- The number of debits and of credits of the account $1 that are effective from $2 to before $3 and were recorded up to the sequence $4. Those that were
-- not dated back are after the sequence $5, up to $6.
SELECT (SELECT count(*) FROM transfer WHERE debit_number = (SELECT a.number FROM account AS a WHERE a.id = $1) AND sequence > $5
        AND sequence <= $6 AND effective_at IS NULL AND kind IN ('post', 'capture', 'reverse')) + b.debits AS debits,
    (SELECT count(*) FROM transfer WHERE credit_number = (SELECT a.number FROM account AS a WHERE a.id = $1) AND sequence > $5
        AND sequence <= $6 AND effective_at IS NULL AND kind IN ('post', 'capture', 'reverse')) + b.credits AS credits
FROM (
    SELECT count(*) FILTER (WHERE a.debits > 0) AS debits, count(*) FILTER (WHERE a.credits > 0) AS credits FROM adjustment AS a
    WHERE a.account = $1 AND a.at >= $2 AND a.at < $3 AND a.sequence <= $4
) AS b;

-- name: many_dated_back
-- How many entries of the account $1 are dated back to between $2 and before $3 and were recorded up to the sequence $4. Counts at most $5.
SELECT count(*) FROM (
    SELECT FROM adjustment AS a
    WHERE a.account = $1 AND a.at >= $2 AND a.at < $3 AND a.sequence <= $4 AND (a.debits > 0 OR a.credits > 0)
    ORDER BY a.at, a.sequence LIMIT $5
) AS b;

-- name: account_lines
-- The accounts of the book $1 and their totals after the sequence $2, by id, after the account $3.
SELECT id, path, name, kind, currency, normal_side, version, debits_posted, credits_posted
FROM account_totals_at($1, $2) WHERE $3::uuid IS NULL OR id > $3 ORDER BY id LIMIT $4;

-- name: group_lines
-- The same, summed by kind, currency and the first $3 segments of the path (0: not by path). The sums are numeric, since they may exceed a bigint.
SELECT kind, CASE WHEN $3 = 0 THEN NULL ELSE array_to_string((string_to_array(path, ':'))[1:$3], ':') END AS path, currency,
    count(*) AS accounts, sum(debits_posted) AS debits_posted, sum(credits_posted) AS credits_posted
FROM account_totals_at($1, $2) GROUP BY 1, 2, 3 ORDER BY 3, 1, 2 NULLS FIRST LIMIT $4;

-- name: group_lines_effective
-- The same by effective time: the totals effective at the instant $2, as known now.
SELECT kind, CASE WHEN $3 = 0 THEN NULL ELSE array_to_string((string_to_array(path, ':'))[1:$3], ':') END AS path, currency,
    count(*) AS accounts, sum(debits_posted) AS debits_posted, sum(credits_posted) AS credits_posted
FROM account_totals_effective($1, $2) GROUP BY 1, 2, 3 ORDER BY 3, 1, 2 NULLS FIRST LIMIT $4;

-- name: many_accounts
-- How many accounts the book $1 has. Counts at most $2.
SELECT count(*) FROM (SELECT FROM account WHERE book = $1 LIMIT $2) AS a;

-- name: dated_back
-- The $4 newest entries of the account $1 that were recorded after the sequence $3 and are effective up to the instant $2, newest first. Each has two
-- adjustments: the one at its effective time is found here, the one at its recorded time is later than $2.
SELECT e.sequence, e.transfer, e.side, e.other, e.kind, e.amount, e.released, e.currency, e.recorded_at, e.code, e.version,
    e.debits_pending, e.debits_posted, e.credits_pending, e.credits_posted, e.transaction, e.effective_at
FROM (
    SELECT book, sequence FROM adjustment WHERE account = $1 AND at <= $2 AND sequence > $3 AND (debits > 0 OR credits > 0)
    ORDER BY sequence DESC LIMIT $4
) AS a
CROSS JOIN LATERAL (
    SELECT o.* FROM entry AS o
    WHERE o.book = a.book AND o.sequence = a.sequence AND o.account_number = (SELECT n.number FROM account AS n WHERE n.id = $1) LIMIT 1
) AS e
ORDER BY a.sequence DESC;

-- name: dated_back_before
-- How many of them there are before the sequence $4, and their sums.
SELECT count(*), coalesce(sum(debits), 0)::bigint, coalesce(sum(credits), 0)::bigint
FROM adjustment WHERE account = $1 AND at <= $2 AND sequence > $3 AND sequence < $4 AND (debits > 0 OR credits > 0);

-- name: open_holds
-- Holds that were made on the account $2 up to the sequence $3 and are open now, with what remained of them at that sequence.
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
-- Holds of the account $2 that were open right after the sequence $3 and are closed now. They are looked for where they were made, among the $4 last
-- entries up to there, and where they were captured, voided and the like, among the $4 first entries after it.
WITH near AS (
    (SELECT o.id FROM (
        SELECT id, kind FROM transfer WHERE debit_number = (SELECT a.number FROM account AS a WHERE a.id = $2)
            AND sequence <= $3 ORDER BY sequence DESC LIMIT $4) AS o WHERE o.kind = 'hold')
    UNION
    (SELECT o.id FROM (
        SELECT id, kind FROM transfer WHERE credit_number = (SELECT a.number FROM account AS a WHERE a.id = $2)
            AND sequence <= $3 ORDER BY sequence DESC LIMIT $4) AS o WHERE o.kind = 'hold')
    UNION
    (SELECT o.target FROM (
        SELECT target, kind FROM transfer WHERE debit_number = (SELECT a.number FROM account AS a WHERE a.id = $2)
            AND sequence > $3 ORDER BY sequence LIMIT $4) AS o
    WHERE o.kind IN ('increase', 'capture', 'void', 'expire'))
    UNION
    (SELECT o.target FROM (
        SELECT target, kind FROM transfer WHERE credit_number = (SELECT a.number FROM account AS a WHERE a.id = $2)
            AND sequence > $3 ORDER BY sequence LIMIT $4) AS o
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
