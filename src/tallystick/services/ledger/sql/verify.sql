-- What must hold in the books, re-derived from the transfers alone. Each query returns the faults it finds as text, and no row if all is well.

-- name: debits_equal_credits
-- Every book balances in every currency: debits equal credits, posted and held.
SELECT format('book %s of %s, %s: debits %s and %s, credits %s and %s', b.name, b.tenant, a.currency, sum(a.debits_posted),
              sum(a.debits_pending), sum(a.credits_posted), sum(a.credits_pending)) AS fault
FROM account AS a JOIN book AS b ON b.id = a.book
GROUP BY b.id, a.currency
HAVING sum(a.debits_posted) <> sum(a.credits_posted) OR sum(a.debits_pending) <> sum(a.credits_pending)
LIMIT 20;

-- name: totals_are_the_sums_of_entries
-- Every account's four totals, version and last sequence are those of its entries.
SELECT format('account %s: totals %s %s %s %s at %s, entries say %s %s %s %s at %s', a.id, a.debits_pending, a.debits_posted,
              a.credits_pending, a.credits_posted, a.version, e.dp, e.d, e.cp, e.c, e.n) AS fault
FROM account AS a
LEFT JOIN (
    SELECT account_number,
        coalesce(sum(CASE kind WHEN 'hold' THEN amount ELSE -released END) FILTER (WHERE side = 'debit'), 0) AS dp,
        coalesce(sum(amount) FILTER (WHERE side = 'debit' AND kind IN ('post', 'capture', 'reverse')), 0) AS d,
        coalesce(sum(CASE kind WHEN 'hold' THEN amount ELSE -released END) FILTER (WHERE side = 'credit'), 0) AS cp,
        coalesce(sum(amount) FILTER (WHERE side = 'credit' AND kind IN ('post', 'capture', 'reverse')), 0) AS c,
        count(*) AS n, max(sequence) AS last
    FROM entry GROUP BY account_number
) AS e ON e.account_number = a.number
WHERE (a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted, a.version, a.sequence)
    IS DISTINCT FROM (coalesce(e.dp, 0), coalesce(e.d, 0), coalesce(e.cp, 0), coalesce(e.c, 0), coalesce(e.n, 0), coalesce(e.last, 0))
LIMIT 20;

-- name: running_balances_follow
-- Each entry's totals are those of the entry before it plus its own amount.
SELECT format('account %s, entry %s', account, version) AS fault
FROM (
    SELECT account, version, side, kind, amount, released, debits_pending, debits_posted, credits_pending, credits_posted,
        lag(version, 1, 0::bigint) OVER w AS v0, lag(debits_pending, 1, 0::bigint) OVER w AS dp0,
        lag(debits_posted, 1, 0::bigint) OVER w AS d0, lag(credits_pending, 1, 0::bigint) OVER w AS cp0,
        lag(credits_posted, 1, 0::bigint) OVER w AS c0
    FROM entry
    WINDOW w AS (PARTITION BY account_number ORDER BY sequence)
) AS e
WHERE (version, debits_pending, debits_posted, credits_pending, credits_posted) IS DISTINCT FROM (
    v0 + 1,
    dp0 + CASE WHEN side <> 'debit' THEN 0 WHEN kind = 'hold' THEN amount ELSE -released END,
    d0 + CASE WHEN side = 'debit' AND kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END,
    cp0 + CASE WHEN side <> 'credit' THEN 0 WHEN kind = 'hold' THEN amount ELSE -released END,
    c0 + CASE WHEN side = 'credit' AND kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END)
LIMIT 20;

-- name: sequences_have_no_gaps
-- A book's transfers are numbered 1, 2, 3 ... up to the book's sequence, at instants that never decrease.
SELECT format('book %s of %s: %s transfers up to %s, %s out of time; the book is at %s', b.name, b.tenant, t.n, t.last, t.backwards,
              b.sequence) AS fault
FROM book AS b
LEFT JOIN (
    SELECT book, count(*) AS n, max(sequence) AS last, count(*) FILTER (WHERE recorded_at < before) AS backwards
    FROM (SELECT book, sequence, recorded_at, lag(recorded_at) OVER (PARTITION BY book ORDER BY sequence) AS before FROM transfer) AS x
    GROUP BY book
) AS t ON t.book = b.id
WHERE b.sequence <> coalesce(t.n, 0) OR b.sequence <> coalesce(t.last, 0) OR t.backwards > 0
LIMIT 20;

-- name: floors_hold
-- No account is below its floor.
SELECT format('account %s is below its floor of %s', id, floor) AS fault
FROM account
WHERE floor IS NOT NULL
  AND CASE normal_side WHEN 'debit' THEN debits_posted - (credits_posted + credits_pending)
      ELSE credits_posted - (debits_posted + debits_pending) END < floor
LIMIT 20;

-- name: ceilings_hold
-- No account is above its ceiling, including what open holds may bring in.
SELECT format('account %s is above its ceiling of %s', id, ceiling) AS fault
FROM account
WHERE ceiling IS NOT NULL
  AND CASE normal_side WHEN 'debit' THEN debits_posted + debits_pending - credits_posted
      ELSE credits_posted + credits_pending - debits_posted END > ceiling
LIMIT 20;

-- name: currencies_do_not_mix
-- A transfer is in the currency and the book of both of its accounts.
SELECT format('transfer %s', t.id) AS fault
FROM transfer AS t
LEFT JOIN account AS d ON d.number = t.debit_number
LEFT JOIN account AS c ON c.number = t.credit_number
WHERE (d.currency, d.book) IS DISTINCT FROM (t.currency, t.book) OR (c.currency, c.book) IS DISTINCT FROM (t.currency, t.book)
LIMIT 20;

-- name: holds_are_what_was_drawn
-- Each hold agrees with its transfer and the transfers on it: its accounts, the amount with all increases, what was captured, and what remains.
SELECT format('hold %s', coalesce(h.id, t.id)) AS fault
FROM (SELECT * FROM transfer WHERE kind = 'hold') AS t
FULL JOIN hold AS h ON h.book = t.book AND h.id = t.id
LEFT JOIN (
    SELECT book, target, coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0) AS captured, sum(released) AS released,
        coalesce(sum(amount) FILTER (WHERE kind = 'increase'), 0) AS increased,
        (array_agg(expires_at ORDER BY sequence DESC) FILTER (WHERE expires_at IS NOT NULL))[1] AS expires_at
    FROM transfer WHERE kind IN ('capture', 'void', 'expire', 'increase') GROUP BY book, target
) AS d ON d.book = t.book AND d.target = t.id
WHERE (h.debit_account, h.credit_account, h.amount, h.captured, h.remaining, h.expires_at) IS DISTINCT FROM (
    t.debit_account, t.credit_account, t.amount + coalesce(d.increased, 0), coalesce(d.captured, 0), t.amount - coalesce(d.released, 0),
    coalesce(d.expires_at, t.expires_at))
LIMIT 20;

-- name: reversals_stay_within
-- The reversed amount that is stored for a transfer is the sum of its reversals, and no more than it moved.
SELECT format('transfer %s', coalesce(k.id, r.id)) AS fault
FROM (SELECT book, target AS id, sum(amount) AS reversed FROM transfer WHERE kind = 'reverse' GROUP BY book, target) AS r
FULL JOIN reversal AS k ON k.book = r.book AND k.id = r.id
LEFT JOIN transfer AS t ON t.book = k.book AND t.id = k.id AND t.kind IN ('post', 'capture')
WHERE (k.reversed, k.amount) IS DISTINCT FROM (r.reversed, t.amount) OR r.reversed > t.amount
LIMIT 20;

-- name: transactions_are_their_transfers
-- A transaction consists of all transfers in its range of sequences, and they belong to no other. Those that move money have its effective time.
SELECT format('transaction %s', coalesce(x.id, t.transaction)) AS fault
FROM transaction AS x
FULL JOIN (
    SELECT book, transaction, min(sequence) AS first, max(sequence) AS last, count(*) AS many, min(effective_at) AS earliest,
        max(effective_at) AS latest, count(effective_at) AS dated, count(*) FILTER (WHERE kind IN ('post', 'capture', 'reverse')) AS moved
    FROM transfer WHERE transaction IS NOT NULL GROUP BY book, transaction
) AS t ON t.book = x.book AND t.transaction = x.id
WHERE (x.first, x.last, x.last - x.first + 1, x.effective_at, x.effective_at)
    IS DISTINCT FROM (t.first, t.last, t.many, t.earliest, t.latest) OR t.dated NOT IN (0, t.moved)
LIMIT 20;

-- name: adjustments_are_of_dated_transfers
-- The adjustments are exactly those of the transfers that are dated back, row by row; and their sums by year, day and hour are right.
SELECT format('adjustment of %s at %s', account, at) AS fault FROM (
    SELECT coalesce(a.account, w.account) AS account, coalesce(a.at, w.at) AS at, a.debits AS had, w.debits AS wanted,
        a.credits AS had_credits, w.credits AS wanted_credits
    FROM adjustment AS a
    FULL JOIN (
        SELECT s.account, s.at, t.sequence, s.debits, s.credits
        FROM transfer AS t
        CROSS JOIN LATERAL (VALUES
            (t.debit_account, t.effective_at, t.amount, 0::bigint), (t.debit_account, t.recorded_at, -t.amount, 0::bigint),
            (t.credit_account, t.effective_at, 0::bigint, t.amount), (t.credit_account, t.recorded_at, 0::bigint, -t.amount)
        ) AS s (account, at, debits, credits)
        WHERE t.effective_at IS NOT NULL
    ) AS w ON w.account = a.account AND w.at = a.at AND w.sequence = a.sequence
) AS both_sides
WHERE (had, had_credits) IS DISTINCT FROM (wanted, wanted_credits)
UNION ALL
SELECT format('adjustments of %s, %s from %s', account, span, starts_at) FROM (
    SELECT coalesce(b.account, w.account) AS account, coalesce(b.span, w.span) AS span, coalesce(b.starts_at, w.starts_at) AS starts_at,
        b.debits AS had, w.debits AS wanted, b.credits AS had_credits, w.credits AS wanted_credits
    FROM adjustment_total AS b
    FULL JOIN (
        SELECT a.account, p.span, date_trunc(p.span, a.at, 'UTC') AS starts_at, sum(a.debits) AS debits, sum(a.credits) AS credits
        FROM adjustment AS a CROSS JOIN (VALUES ('year'), ('day'), ('hour')) AS p (span) GROUP BY 1, 2, 3
    ) AS w ON w.account = b.account AND w.span = b.span AND w.starts_at = b.starts_at
) AS both_sides
WHERE (had, had_credits) IS DISTINCT FROM (wanted, wanted_credits)
LIMIT 20;

-- name: transit_accounts_agree
-- Between two books of this shard, what came in on one side went out on the other. The difference is what has arrived while its hold is still open.
WITH way AS (
    SELECT b.id AS book, b.tenant, b.name, b.shard, a.id, a.currency, split_part(a.path, ':', 2) AS way, split_part(a.path, ':', 3) AS other,
        abs(a.credits_posted - a.debits_posted) AS posted
    FROM account AS a JOIN book AS b ON b.id = a.book
    WHERE a.path >= 'transit:' AND a.path < 'transit;'
), leg AS (
    SELECT w.tenant, w.name AS source, w.other AS destination, w.currency, w.posted + coalesce((
        SELECT sum(h.remaining) FROM hold AS h JOIN transfer AS t ON t.book = d.id AND t.id = h.id JOIN way AS i ON i.id = t.debit_account
        WHERE h.credit_account = w.id AND h.remaining > 0 AND h.expires_at IS NULL
    ), 0) AS amount
    FROM way AS w JOIN book AS d ON d.tenant = w.tenant AND d.name = w.other AND d.shard = w.shard
    WHERE w.way = 'out'
    UNION ALL
    SELECT w.tenant, w.other, w.name, w.currency, -w.posted
    FROM way AS w JOIN book AS s ON s.tenant = w.tenant AND s.name = w.other AND s.shard = w.shard
    WHERE w.way = 'in'
)
SELECT format('%s, %s to %s: %s %s went out and did not come in', tenant, source, destination, sum(amount), currency) AS fault
FROM leg GROUP BY tenant, source, destination, currency
HAVING sum(amount) <> 0
LIMIT 20;
