-- The continuous check (service/checker.py). Each query checks a slice and returns the faults that it finds as text. Everything is compared with the
-- row from which it follows, and what must exist is looked up. So all slices together re-derive every total from the transfers' amounts
-- alone. One statement sees one snapshot, so concurrent writes are not taken for faults.

-- name: books
-- $3 books after the number $2: all ($1 null), those in quarantine (true), or those not in it (false). With their sequence, and how many accounts and
-- holds there are to check besides transfers.
SELECT b.id, b.tenant, b.name, b.sequence, b.quarantined_at IS NOT NULL AS quarantined, (SELECT count(*) FROM account AS a WHERE a.book = b.id) AS accounts,
    (SELECT count(*) FROM hold AS h WHERE h.book = b.id) AS holds
FROM book AS b WHERE ($1::boolean IS NULL OR (b.quarantined_at IS NOT NULL) = $1) AND b.id > $2 ORDER BY b.id LIMIT $3;

-- name: quarantine
-- Puts a book in quarantine, unless it is. Its revision changes, so replicas that have it in memory notice.
UPDATE book SET quarantined_at = $3, quarantine_reason = left($2, 500) WHERE id = $1 AND quarantined_at IS NULL
RETURNING id, tenant, name, sequence, true, 0::bigint, 0::bigint;

-- name: release
-- Takes a book out of quarantine.
UPDATE book SET quarantined_at = NULL, quarantine_reason = NULL WHERE id = $1 AND quarantined_at IS NOT NULL
RETURNING id;

-- name: balance
-- The book $1: in each currency debits equal credits, posted and held; and there is no transfer after the book's sequence.
(SELECT format('%s: debits %s and %s held, credits %s and %s held', currency, sum(debits_posted), sum(debits_pending),
    sum(credits_posted), sum(credits_pending)) AS fault
FROM account WHERE book = $1
GROUP BY currency
HAVING sum(debits_posted) <> sum(credits_posted) OR sum(debits_pending) <> sum(credits_pending)
LIMIT 10)
UNION ALL
SELECT format('the book is at sequence %s, and there are transfers after it', b.sequence)
FROM book AS b WHERE b.id = $1 AND EXISTS (SELECT FROM transfer AS t WHERE t.book = b.id AND t.sequence > b.sequence);

-- name: transfers
-- Transfers of the book $1 after the sequence $2 up to $3, neither past the book's. None is missing; each is recorded no earlier than the one before it;
-- both accounts are of its book and currency, and their totals are those of their previous entry plus this amount; its hold, its reversal, its
-- transaction and its adjustments of the past exist. A transaction consists of all transfers in its range. An account's previous entry is mostly in the
-- same slice, and only that before its first one is looked up: checking five thousand at a time costs half as much as one by one.
WITH slice AS MATERIALIZED (
    -- Columns are named, because `*` would make the view look up the accounts' ids for each row.
    SELECT book, sequence, id, kind, target, debit_number, credit_number, amount, currency, recorded_at, effective_at, transaction,
        dr_version, dr_debits_pending, dr_debits_posted, dr_credits_pending, dr_credits_posted,
        cr_version, cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted,
        coalesce(lag(recorded_at) OVER (ORDER BY sequence), (SELECT o.recorded_at FROM transfer AS o WHERE o.book = $1 AND o.sequence = $2)) AS before,
        CASE kind WHEN 'hold' THEN amount ELSE -released END AS held,
        CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END AS moved
    FROM transfer WHERE book = $1 AND sequence > $2 AND sequence <= $3
),
side AS (
    SELECT sequence, 'debit' AS does, debit_number AS account, currency, dr_version AS v,
        dr_debits_pending AS dp, dr_debits_posted AS d, dr_credits_pending AS cp, dr_credits_posted AS c,
        held AS dp_by, moved AS d_by, 0::bigint AS cp_by, 0::bigint AS c_by
    FROM slice
    UNION ALL
    SELECT sequence, 'credit', credit_number, currency, cr_version,
        cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted, 0, 0, held, moved
    FROM slice
),
follows AS (
    SELECT s.*, lag(v) OVER w AS v0, lag(dp) OVER w AS dp0, lag(d) OVER w AS d0, lag(cp) OVER w AS cp0, lag(c) OVER w AS c0
    FROM side AS s WINDOW w AS (PARTITION BY account ORDER BY sequence)
),
unlike AS MATERIALIZED (
    SELECT f.sequence, f.does FROM follows AS f
    LEFT JOIN LATERAL (
        SELECT e.* FROM (
            (SELECT sequence, dr_version AS v, dr_debits_pending AS dp, dr_debits_posted AS d, dr_credits_pending AS cp, dr_credits_posted AS c
            FROM transfer AS o WHERE f.v0 IS NULL AND o.debit_number = f.account AND o.sequence <= $2 ORDER BY o.sequence DESC LIMIT 1)
            UNION ALL
            (SELECT sequence, cr_version, cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted
            FROM transfer AS o WHERE f.v0 IS NULL AND o.credit_number = f.account AND o.sequence <= $2 ORDER BY o.sequence DESC LIMIT 1)
        ) AS e ORDER BY e.sequence DESC LIMIT 1
    ) AS x ON true
    WHERE (f.v, f.dp, f.d, f.cp, f.c) <> (
        coalesce(f.v0, x.v, 0) + 1, coalesce(f.dp0, x.dp, 0) + f.dp_by, coalesce(f.d0, x.d, 0) + f.d_by,
        coalesce(f.cp0, x.cp, 0) + f.cp_by, coalesce(f.c0, x.c, 0) + f.c_by
    )
),
astray AS MATERIALIZED (
    -- A subquery per account, so that no plan reads all accounts for the few of these transfers.
    SELECT s.account, s.currency FROM (SELECT DISTINCT account, currency FROM side) AS s
    WHERE (SELECT (a.book, a.currency) = ($1, s.currency) FROM account AS a WHERE a.number = s.account) IS NOT TRUE
)
SELECT format('%s transfers from sequence %s to %s', count(*), $2::bigint + 1, $3::bigint) AS fault
FROM slice
HAVING count(*) <> $3 - $2
UNION ALL
(SELECT format('transfer at sequence %s: %s', t.sequence, w.wrong)
FROM slice AS t
CROSS JOIN LATERAL (SELECT concat_ws(', ',
    CASE WHEN t.recorded_at < t.before THEN 'recorded before the one before it' END,
    CASE WHEN (t.sequence, 'debit') IN (SELECT sequence, does FROM unlike) THEN 'totals of what it debits' END,
    CASE WHEN (t.sequence, 'credit') IN (SELECT sequence, does FROM unlike) THEN 'totals of what it credits' END,
    CASE WHEN (t.debit_number, t.currency) IN (SELECT account, currency FROM astray) OR (t.credit_number, t.currency) IN (SELECT account, currency FROM astray)
        THEN 'book or currency of its accounts' END,
    CASE WHEN t.kind = 'hold' AND NOT EXISTS (SELECT FROM hold AS h WHERE h.book = t.book AND h.id = t.id) THEN 'its hold is missing' END,
    CASE WHEN t.kind = 'reverse' AND NOT EXISTS (SELECT FROM reversal AS r WHERE r.book = t.book AND r.id = t.target)
        THEN 'what was reversed is not noted' END,
    CASE WHEN t.transaction IS NOT NULL AND NOT EXISTS (
        SELECT FROM transaction AS n WHERE n.book = t.book AND n.id = t.transaction AND t.sequence BETWEEN n.first AND n.last
            AND (n.effective_at IS NOT DISTINCT FROM t.effective_at OR t.kind NOT IN ('post', 'capture', 'reverse'))
    ) THEN 'its transaction' END,
    CASE WHEN t.effective_at IS NOT NULL AND (
        SELECT count(*) FROM (
            SELECT (SELECT a.id FROM account AS a WHERE a.number = v.number) AS account, v.at, v.debits, v.credits
            FROM (VALUES
                (t.debit_number, t.effective_at, t.amount, 0::bigint), (t.debit_number, t.recorded_at, -t.amount, 0::bigint),
                (t.credit_number, t.effective_at, 0::bigint, t.amount), (t.credit_number, t.recorded_at, 0::bigint, -t.amount)
            ) AS v (number, at, debits, credits)
        ) AS s
        JOIN adjustment AS j ON (j.account, j.at, j.sequence, j.book, j.debits, j.credits) = (s.account, s.at, t.sequence, t.book, s.debits, s.credits)
        JOIN adjustment_total AS k ON k.account = s.account AND k.span = 'hour' AND k.starts_at = date_trunc('hour', s.at, 'UTC')
    ) <> 4 THEN 'what it adjusts in the past' END
) AS wrong) AS w
WHERE w.wrong <> ''
LIMIT 10)
UNION ALL
(SELECT format('transaction %s: not all transfers from sequence %s to %s', n.id, n.first, n.last)
FROM transaction AS n
WHERE n.book = $1 AND n.first > $2 AND n.first <= $3
    AND (SELECT count(*) FROM transfer AS o WHERE o.book = n.book AND o.sequence BETWEEN n.first AND n.last AND o.transaction = n.id)
        <> n.last - n.first + 1
LIMIT 10);

-- name: accounts
-- The next $3 accounts of the book $1 after the id $2 (null: from the first): how many there are, the last id, and those whose totals differ from their
-- last entry's.
WITH slice AS MATERIALIZED (
    SELECT a.* FROM account AS a WHERE a.book = $1 AND ($2::uuid IS NULL OR a.id > $2) ORDER BY a.id LIMIT $3
)
SELECT count(*) AS seen, (array_agg(s.id ORDER BY s.id DESC))[1] AS last,
    array_agg(format('totals of account %s', s.id)) FILTER (
        WHERE (s.version, s.sequence, s.debits_pending, s.debits_posted, s.credits_pending, s.credits_posted) IS DISTINCT FROM
            (coalesce(e.v, 0), coalesce(e.sequence, 0), coalesce(e.dp, 0), coalesce(e.d, 0), coalesce(e.cp, 0), coalesce(e.c, 0))
    ) AS faults
FROM slice AS s
LEFT JOIN LATERAL (
    SELECT e.* FROM (
        (SELECT sequence, dr_version AS v, dr_debits_pending AS dp, dr_debits_posted AS d, dr_credits_pending AS cp, dr_credits_posted AS c
        FROM transfer AS o WHERE o.debit_number = s.number ORDER BY o.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT sequence, cr_version, cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted
        FROM transfer AS o WHERE o.credit_number = s.number ORDER BY o.sequence DESC LIMIT 1)
    ) AS e ORDER BY e.sequence DESC LIMIT 1
) AS e ON true;

-- name: holds
-- The next $3 holds of the book $1 after the id $2: how many there are, the last id, and those that differ from what their transfers add up to.
WITH slice AS MATERIALIZED (
    SELECT h.* FROM hold AS h WHERE h.book = $1 AND ($2::uuid IS NULL OR h.id > $2) ORDER BY h.id LIMIT $3
)
SELECT count(*) AS seen, (array_agg(s.id ORDER BY s.id DESC))[1] AS last,
    array_agg(format('hold %s of %s: %s captured, %s left', s.id, s.amount, s.captured, s.remaining)) FILTER (
        WHERE (s.amount, s.debit_account, s.credit_account, s.captured, s.remaining, s.expires_at) IS DISTINCT FROM
            (t.amount + x.increased, t.debit_account, t.credit_account, x.captured, t.amount - x.released, coalesce(x.expires_at, t.expires_at))
    ) AS faults
FROM slice AS s
LEFT JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = s.book AND o.id = s.id AND o.kind = 'hold' LIMIT 1) AS t ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(o.amount) FILTER (WHERE o.kind = 'capture'), 0) AS captured, coalesce(sum(o.released), 0) AS released,
        coalesce(sum(o.amount) FILTER (WHERE o.kind = 'increase'), 0) AS increased,
        (array_agg(o.expires_at ORDER BY o.sequence DESC) FILTER (WHERE o.expires_at IS NOT NULL))[1] AS expires_at
    FROM transfer AS o WHERE o.book = s.book AND o.target = s.id
) AS x;

-- name: reversals
-- The next $3 records of reversed transfers of the book $1 after the id $2: how many there are, the last id, and those that differ from the sum of their
-- reversals.
WITH slice AS MATERIALIZED (
    SELECT r.* FROM reversal AS r WHERE r.book = $1 AND ($2::uuid IS NULL OR r.id > $2) ORDER BY r.id LIMIT $3
)
SELECT count(*) AS seen, (array_agg(s.id ORDER BY s.id DESC))[1] AS last,
    array_agg(format('transfer %s: %s reversed of %s', s.id, s.reversed, s.amount)) FILTER (
        WHERE (s.amount, s.reversed) IS DISTINCT FROM (t.amount, x.reversed)
    ) AS faults
FROM slice AS s
LEFT JOIN LATERAL (
    SELECT o.* FROM transfer AS o WHERE o.book = s.book AND o.id = s.id AND o.kind IN ('post', 'capture') LIMIT 1
) AS t ON true
CROSS JOIN LATERAL (
    SELECT sum(o.amount)::bigint AS reversed FROM transfer AS o
    WHERE o.book = s.book AND o.target = s.id AND o.kind = 'reverse'
) AS x;

-- name: adjustments
-- The next $5 sums of what was dated back on accounts of the book $1, after the one of the account $2 over the span $3 from the time $4 on (no span:
-- after all sums of the account). Returns how many rows were read, the last account, span and time (no account: the end), and the sums that are wrong.
-- A year or a day must be the sum of its days or hours, an hour that of its adjustments. An hour with more than a million adjustments is summed
-- by `tallystick verify` only.
WITH among AS MATERIALIZED (
    SELECT a.id FROM account AS a
    WHERE a.book = $1 AND ($2::uuid IS NULL OR a.id > $2 OR ($3::text IS NOT NULL AND a.id = $2)) ORDER BY a.id LIMIT 1000
), slice AS MATERIALIZED (
    SELECT t.*, date_add(t.starts_at, ('1 ' || t.span)::interval, 'UTC') AS ends_at
    FROM among AS a
    CROSS JOIN LATERAL (
        SELECT o.* FROM adjustment_total AS o
        WHERE o.account = a.id AND (a.id IS DISTINCT FROM $2 OR (o.span, o.starts_at) > ($3, $4::timestamptz))
        ORDER BY o.span, o.starts_at LIMIT $5
    ) AS t
    ORDER BY t.account, t.span, t.starts_at LIMIT $5
), found AS (
    SELECT s.*, f.n, f.d, f.c,
        s.span <> 'year' AND NOT EXISTS (
            SELECT FROM adjustment_total AS o WHERE o.account = s.account
                AND o.span = CASE s.span WHEN 'hour' THEN 'day' ELSE 'year' END
                AND o.starts_at = date_trunc(o.span, s.starts_at, 'UTC')
        ) AS alone
    FROM slice AS s
    CROSS JOIN LATERAL (
        SELECT count(*) AS n, coalesce(sum(p.debits), 0) AS d, coalesce(sum(p.credits), 0) AS c FROM (
            (SELECT o.debits, o.credits FROM adjustment AS o
            WHERE s.span = 'hour' AND o.account = s.account AND o.at >= s.starts_at AND o.at < s.ends_at LIMIT 1000001)
            UNION ALL
            SELECT o.debits, o.credits FROM adjustment_total AS o
            WHERE s.span <> 'hour' AND o.account = s.account AND o.span = CASE s.span WHEN 'year' THEN 'day' ELSE 'hour' END
                AND o.starts_at >= s.starts_at AND o.starts_at < s.ends_at
        ) AS p
    ) AS f
), last AS (
    SELECT account, span, starts_at FROM slice WHERE (SELECT count(*) FROM slice) = $5
    UNION ALL
    SELECT id, NULL, NULL FROM among WHERE (SELECT count(*) FROM slice) < $5 AND (SELECT count(*) FROM among) = 1000
    ORDER BY account DESC, span DESC, starts_at DESC LIMIT 1
)
SELECT (SELECT count(*) FROM among) + (SELECT coalesce(sum(n), 0) FROM found)::bigint AS seen, l.account, l.span, l.starts_at,
    (SELECT array_agg(format('dated back on account %s in the %s from %s: %s debited and %s credited', f.account, f.span, f.starts_at, f.debits, f.credits))
    FROM found AS f WHERE f.alone OR (f.n <= 1000000 AND (f.debits, f.credits) <> (f.d, f.c)) OR f.starts_at <> date_trunc(f.span, f.starts_at, 'UTC')) AS faults
FROM (VALUES (1)) AS one LEFT JOIN last AS l ON true;
