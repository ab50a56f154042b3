-- The continuous check (service/checker.py): each query looks at a slice and gives the faults that it finds, as text. Everything is compared with
-- the row it follows from, so that all slices together re-derive every total from the transfers' amounts alone. One statement sees one
-- moment, so what is being written meanwhile is no fault.

-- name: books
-- $3 books after the number $2, all (null) or those that are in quarantine or not ($1): how far they are, and what there is to look at
-- beside transfers.
SELECT b.id, b.tenant, b.name, b.sequence, b.quarantined_at IS NOT NULL AS quarantined, (SELECT count(*) FROM account AS a WHERE a.book = b.id) AS accounts,
    (SELECT count(*) FROM hold AS h WHERE h.book = b.id) AS holds
FROM book AS b WHERE ($1::boolean IS NULL OR (b.quarantined_at IS NOT NULL) = $1) AND b.id > $2 ORDER BY b.id LIMIT $3;

-- name: quarantine
-- Puts a book in quarantine, if it is not. Who has it in memory sees by its revision that it has changed.
UPDATE book SET quarantined_at = $3, quarantine_reason = left($2, 500) WHERE id = $1 AND quarantined_at IS NULL
RETURNING id, tenant, name, sequence, true, 0::bigint, 0::bigint;

-- name: release
-- Takes a book out of quarantine.
UPDATE book SET quarantined_at = NULL, quarantine_reason = NULL WHERE id = $1 AND quarantined_at IS NOT NULL
RETURNING id;

-- name: balance
-- Book $1: in each currency debits equal credits, posted and held.
SELECT format('%s: debits %s and %s held, credits %s and %s held', currency, sum(debits_posted), sum(debits_pending),
    sum(credits_posted), sum(credits_pending)) AS fault
FROM account WHERE book = $1
GROUP BY currency
HAVING sum(debits_posted) <> sum(credits_posted) OR sum(debits_pending) <> sum(credits_pending)
LIMIT 10;

-- name: transfers
-- Transfers of book $1 after $2 up to $3: none is missing, each comes after the one before it, and both accounts' totals are those of
-- their entry before and this amount. $2 and $3 are not past the book's sequence.
SELECT format('%s transfers from sequence %s to %s', count(*), $2::bigint + 1, $3::bigint) AS fault
FROM transfer WHERE book = $1 AND sequence > $2 AND sequence <= $3
HAVING count(*) <> $3 - $2
UNION ALL
(SELECT format('transfer at sequence %s', t.sequence)
FROM (
    SELECT o.*, CASE kind WHEN 'hold' THEN amount ELSE -released END AS held,
        CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END AS moved
    FROM transfer AS o WHERE o.book = $1 AND o.sequence > $2 AND o.sequence <= $3
) AS t
LEFT JOIN LATERAL (
    SELECT e.* FROM (
        (SELECT sequence, dr_version AS v, dr_debits_pending AS dp, dr_debits_posted AS d, dr_credits_pending AS cp, dr_credits_posted AS c
        FROM transfer AS o WHERE o.debit_number = t.debit_number AND o.sequence < t.sequence ORDER BY o.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT sequence, cr_version, cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted
        FROM transfer AS o WHERE o.credit_number = t.debit_number AND o.sequence < t.sequence ORDER BY o.sequence DESC LIMIT 1)
    ) AS e ORDER BY e.sequence DESC LIMIT 1
) AS x ON true
LEFT JOIN LATERAL (
    SELECT e.* FROM (
        (SELECT sequence, dr_version AS v, dr_debits_pending AS dp, dr_debits_posted AS d, dr_credits_pending AS cp, dr_credits_posted AS c
        FROM transfer AS o WHERE o.debit_number = t.credit_number AND o.sequence < t.sequence ORDER BY o.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT sequence, cr_version, cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted
        FROM transfer AS o WHERE o.credit_number = t.credit_number AND o.sequence < t.sequence ORDER BY o.sequence DESC LIMIT 1)
    ) AS e ORDER BY e.sequence DESC LIMIT 1
) AS y ON true
LEFT JOIN LATERAL (
    SELECT o.recorded_at FROM transfer AS o WHERE o.book = t.book AND o.sequence = t.sequence - 1 LIMIT 1
) AS z ON true
WHERE t.recorded_at < z.recorded_at
    OR (t.dr_version, t.dr_debits_pending, t.dr_debits_posted, t.dr_credits_pending, t.dr_credits_posted) <>
        (coalesce(x.v, 0) + 1, coalesce(x.dp, 0) + t.held, coalesce(x.d, 0) + t.moved, coalesce(x.cp, 0), coalesce(x.c, 0))
    OR (t.cr_version, t.cr_debits_pending, t.cr_debits_posted, t.cr_credits_pending, t.cr_credits_posted) <>
        (coalesce(y.v, 0) + 1, coalesce(y.dp, 0), coalesce(y.d, 0), coalesce(y.cp, 0) + t.held, coalesce(y.c, 0) + t.moved)
LIMIT 10);

-- name: accounts
-- The next $3 accounts of book $1 after the id $2 (null: from the first): their number, the last id, and those whose totals are not their last entry's.
WITH slice AS MATERIALIZED (
    SELECT a.* FROM account AS a WHERE a.book = $1 AND ($2::uuid IS NULL OR a.id > $2) ORDER BY a.id LIMIT $3
)
SELECT count(*) AS seen, (array_agg(s.id ORDER BY s.id DESC))[1] AS last,
    array_agg(format('totals of an account at version %s', s.version)) FILTER (
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
-- The next $3 holds of book $1 after the id $2: their number, the last id, and those of which not that is left which the transfers say.
WITH slice AS MATERIALIZED (
    SELECT h.* FROM hold AS h WHERE h.book = $1 AND ($2::uuid IS NULL OR h.id > $2) ORDER BY h.id LIMIT $3
)
SELECT count(*) AS seen, (array_agg(s.id ORDER BY s.id DESC))[1] AS last,
    array_agg(format('a hold of %s: %s captured, %s left', s.amount, s.captured, s.remaining)) FILTER (
        WHERE (s.amount, s.debit_account, s.credit_account, s.captured, s.remaining) IS DISTINCT FROM
            (t.amount + x.increased, t.debit_account, t.credit_account, x.captured, t.amount - x.released)
    ) AS faults
FROM slice AS s
LEFT JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = s.book AND o.id = s.id AND o.kind = 'hold' LIMIT 1) AS t ON true
CROSS JOIN LATERAL (
    SELECT coalesce(sum(o.amount) FILTER (WHERE o.kind = 'capture'), 0) AS captured, coalesce(sum(o.released), 0) AS released,
        coalesce(sum(o.amount) FILTER (WHERE o.kind = 'increase'), 0) AS increased
    FROM transfer AS o WHERE o.book = s.book AND o.target = s.id
) AS x;

-- name: reversals
-- The next $3 records of reversed transfers of book $1 after the id $2: their number, the last id, and those that are not the sum of the reversals.
WITH slice AS MATERIALIZED (
    SELECT r.* FROM reversal AS r WHERE r.book = $1 AND ($2::uuid IS NULL OR r.id > $2) ORDER BY r.id LIMIT $3
)
SELECT count(*) AS seen, (array_agg(s.id ORDER BY s.id DESC))[1] AS last,
    array_agg(format('%s reversed of %s', s.reversed, s.amount)) FILTER (
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
