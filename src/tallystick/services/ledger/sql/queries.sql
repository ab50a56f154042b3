-- name: lock_books
-- The first statement of every write: whoever holds a book's row decides alone what its next transfers are. Rows are locked in the order of
-- ids, so that replicas can't deadlock.
SELECT id, sequence, recorded_at, revision, quarantined_at IS NOT NULL AS quarantined, backdating = 'strict' AS strict, sealed_until, flush, approvals::text
FROM book WHERE id = ANY($1::integer[]) ORDER BY id FOR NO KEY UPDATE;

-- name: free_books
-- Those of the books whose locks are free. The locks are taken and released at once.
SELECT id FROM book WHERE id = ANY($1::integer[]) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED;

-- name: heads
-- As `lock_books`, without the lock: what a replica starts from when it decides ahead of the lock.
SELECT id, sequence, recorded_at, revision, quarantined_at IS NOT NULL AS quarantined, backdating = 'strict' AS strict, sealed_until, flush, approvals::text
FROM book WHERE id = ANY($1::integer[]);

-- name: known
-- What is stored under these ids: the transfer with its hold and its reversal, or its refusal. One index probe each, see the migration.
SELECT t.*, x.digest, x.reason, x.available, x.required, x.currency AS refused_currency, x.crossing AS refused_crossing,
    x.account AS refused_account, x.breached_on AS refused_breached_on,
    x.id AS refused, k.book AS in_book, h.amount AS hold_amount, h.captured, h.remaining, h.state, h.expires_at AS hold_expires_at, r.reversed
FROM unnest($1::integer[], $2::uuid[]) AS k (book, id)
LEFT JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = k.book AND o.id = k.id LIMIT 1) AS t ON true
LEFT JOIN LATERAL (SELECT o.* FROM rejection AS o WHERE o.book = k.book AND o.id = k.id LIMIT 1) AS x ON true
LEFT JOIN LATERAL (SELECT o.* FROM hold AS o WHERE o.book = t.book AND o.id = t.id AND t.kind = 'hold' LIMIT 1) AS h ON true
LEFT JOIN LATERAL (
    SELECT o.* FROM reversal AS o WHERE o.book = t.book AND o.id = t.id AND t.kind IN ('post', 'capture') LIMIT 1
) AS r ON true
WHERE t.id IS NOT NULL OR x.id IS NOT NULL;

-- name: accounts_for_posting
-- Accounts as the rules need them, of any book: the rules check that. Their book's lock is held.
SELECT id, book, currency, normal_side = 'debit' AS debit_normal, floor, closed_at IS NOT NULL AS closed, version,
    debits_pending, debits_posted, credits_pending, credits_posted, ceiling, frozen_at IS NOT NULL AS frozen,
    coalesce(path, '') LIKE 'transit:%' AS transit, path, number
FROM account WHERE id = ANY($1::uuid[]);

-- name: accounts_at_paths_for_posting
-- The same for accounts named by path: $1 books, $2 paths. One probe each.
SELECT k.path, a.id, a.book, a.currency, a.normal_side = 'debit' AS debit_normal, a.floor, a.closed_at IS NOT NULL AS closed, a.version,
    a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted, a.ceiling, a.frozen_at IS NOT NULL AS frozen,
    k.path LIKE 'transit:%' AS transit, a.path, a.number
FROM unnest($1::integer[], $2::text[]) AS k (book, path)
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.book = k.book AND o.path = k.path LIMIT 1) AS a;

-- name: save
-- The only statement of a flush of plain postings, and the last one of every other flush. So it costs one round trip and one commit, and the
-- triggers check all of it or nothing. It stores only if the books have the stand that the flush was decided on, no id is both posted and
-- refused, and the keys are free; otherwise it raises which of these failed. Each part reads the one before it, and so waits for it. The
-- books come first, since their locks decide who is next. The database moves the account totals by the amounts of the transfers; the running
-- totals in the transfers come from the model, and the triggers compare the two.
-- The books' former stand is compared in SET and not in WHERE. WHERE would see the rows as they were when the statement began, but the flush
-- before this one may be stored only later, while this one waits for its lock.
-- $1-$7 books: id; sequence, revision and flush as they were (null: their locks are held); the new sequence and instant; the number of this
-- flush. $8 the transfers. $9-$18 refusals, recorded at $19. $20-$28 idempotency keys with their answers. $29-$31 facts.
WITH moved AS (
    UPDATE book AS b SET sequence = w.sequence, recorded_at = w.recorded_at,
        flush = CASE
            WHEN w.was_flush IS NULL OR (b.sequence, b.revision, b.flush) = (w.was_sequence, w.was_revision, w.was_flush) THEN w.flush
            ELSE b.flush
        END
    FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::timestamptz[], $7::bigint[])
        AS w (book, was_sequence, was_revision, was_flush, sequence, recorded_at, flush)
    WHERE b.id = w.book
    RETURNING b.flush = w.flush AS ours
), next AS MATERIALIZED (
    SELECT required((SELECT count(*) FROM moved WHERE ours) = cardinality($1), 'book_moved')
        AND required(NOT EXISTS (
            SELECT FROM unnest($9::integer[], $10::uuid[]) AS k (book, id)
            CROSS JOIN LATERAL (SELECT FROM transfer AS o WHERE o.book = k.book AND o.id = k.id LIMIT 1) AS x
        ), 'id_taken') AS ours
), keys AS (
    INSERT INTO idempotency (tenant, client_id, route, key, digest, fields, resource, status, body)
    SELECT w.tenant, w.client_id, w.route, w.key, w.digest, w.fields, w.resource, w.status, w.body
    FROM next CROSS JOIN unnest(
        $20::text[], $21::text[], $22::text[], $23::text[], $24::bytea[], $25::bytea[], $26::uuid[], $27::smallint[], $28::bytea[]
    ) AS w (tenant, client_id, route, key, digest, fields, resource, status, body)
    WHERE next.ours
    ORDER BY w.tenant, w.client_id, w.route, w.key
    ON CONFLICT DO NOTHING
    RETURNING 1
), sure AS MATERIALIZED (
    SELECT next.ours AND required((SELECT count(*) FROM keys) = cardinality($20), 'key_taken') AS ours FROM next
), refused AS (
    INSERT INTO rejection (book, id, digest, reason, available, required, currency, crossing, account, breached_on, recorded_at)
    SELECT n.book, n.id, n.digest, n.reason, n.available, n.required, n.currency, n.crossing, n.account, n.breached_on::date[], $19
    FROM sure CROSS JOIN unnest(
        $9::integer[], $10::uuid[], $11::bytea[], $12::text[], $13::bigint[], $14::bigint[], $15::text[], $16::boolean[], $17::text[], $18::text[]
    ) AS n (book, id, digest, reason, available, required, currency, crossing, account, breached_on)
    WHERE sure.ours
), posted AS (
    INSERT INTO transfer_row (
        book, sequence, id, kind, target, debit_number, credit_number, amount, released,
        currency, recorded_at, expires_at, code, metadata,
        dr_version, dr_debits_pending, dr_debits_posted, dr_credits_pending, dr_credits_posted,
        cr_version, cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted, transaction, effective_at, asked
    )
    SELECT u.book, u.sequence, u.id, u.kind, u.target, u.debit_number, u.credit_number, u.amount, nullif(u.released, 0),
        u.currency, u.recorded_at, u.expires_at, u.code, u.metadata,
        u.dr_version, nullif(u.dr_debits_pending, 0), nullif(u.dr_debits_posted, 0), nullif(u.dr_credits_pending, 0), nullif(u.dr_credits_posted, 0),
        u.cr_version, nullif(u.cr_debits_pending, 0), nullif(u.cr_debits_posted, 0), nullif(u.cr_credits_pending, 0), nullif(u.cr_credits_posted, 0),
        u.transaction, u.effective_at, u.asked
    FROM sure CROSS JOIN unnest($8::decided_transfer[]) AS u
    WHERE sure.ours
    RETURNING book, id
), told AS (
    INSERT INTO outbox (id, type, fact)
    SELECT f.id, f.type, f.fact
    FROM sure CROSS JOIN unnest($29::uuid[], $30::text[], $31::bytea[]) WITH ORDINALITY AS f (id, type, fact, place)
    WHERE sure.ours
    ORDER BY f.place
)
SELECT ours AND required(NOT EXISTS (
    SELECT FROM posted AS k
    CROSS JOIN LATERAL (SELECT FROM rejection AS o WHERE o.book = k.book AND o.id = k.id LIMIT 1) AS x
), 'id_taken') AS ours
FROM sure;

-- name: insert_holds
-- New holds, before the transfers that made them (`save` then checks both against each other).
INSERT INTO hold (book, id, debit_account, credit_account, amount, captured, remaining, state, expires_at)
SELECT book, id, debit_account, credit_account, amount, 0, amount, 'held', expires_at
FROM unnest($1::integer[], $2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::timestamptz[])
    AS n (book, id, debit_account, credit_account, amount, expires_at);

-- name: draw_holds
-- Applies increases, captures, voids and expiries to holds. A CHECK refuses to take more than there is. Of several expiry times for one hold
-- the last one counts.
UPDATE hold AS h SET amount = h.amount + d.increased, captured = h.captured + d.captured, remaining = h.remaining - d.released,
    state = CASE WHEN h.remaining > d.released THEN 'held' ELSE d.state END, expires_at = coalesce(d.expires_at, h.expires_at)
FROM (
    SELECT book, target, coalesce(sum(amount) FILTER (WHERE kind = 'capture'), 0)::bigint AS captured,
        coalesce(sum(amount) FILTER (WHERE kind = 'increase'), 0)::bigint AS increased, sum(released)::bigint AS released,
        (array_agg(expires_at ORDER BY nth DESC) FILTER (WHERE expires_at IS NOT NULL))[1] AS expires_at,
        (array_agg(CASE kind WHEN 'void' THEN 'voided' WHEN 'expire' THEN 'expired' ELSE 'captured' END ORDER BY nth DESC))[1] AS state
    FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::bigint[], $5::bigint[], $6::timestamptz[])
        WITH ORDINALITY AS u (book, target, kind, amount, released, expires_at, nth)
    GROUP BY book, target
) AS d
WHERE h.book = d.book AND h.id = d.target;

-- name: insert_transactions
-- Before their transfers (`save` then checks both against each other).
INSERT INTO transaction (book, id, first, last, recorded_at, effective_at, reference, description, metadata, reverses, exchanges)
SELECT n.book, n.id, n.first, n.last, n.recorded_at, n.effective_at, n.reference, n.description, n.metadata, n.reverses, n.exchanges
FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::text[], $8::text[], $9::text[],
    $10::uuid[], $11::text[])
    AS n (book, id, first, last, recorded_at, effective_at, reference, description, metadata, reverses, exchanges);

-- name: transactions_of
-- The transactions under these ids ($1 books, $2 ids). One probe each.
SELECT x.book, x.id, x.first, x.last, x.recorded_at, x.effective_at, x.reference, x.description, x.metadata, x.reverses, x.exchanges
FROM unnest($1::integer[], $2::uuid[]) AS k (book, id)
CROSS JOIN LATERAL (SELECT o.* FROM transaction AS o WHERE o.book = k.book AND o.id = k.id LIMIT 1) AS x;

-- name: days
-- The posted totals, as recorded, of accounts ($1, of the books $2) at the end of each day (UTC) on which they had an entry: the days before $4, back
-- to the last such day up to $3. It steps from an account's last entry of one day to its last entry of an earlier day, so days without an entry
-- cost nothing.
WITH RECURSIVE back (account, number, book, first, day, debits, credits, upto) AS (
    SELECT k.account, a.number, k.book, k.first, NULL::date, NULL::bigint, NULL::bigint,
        sequence_at(k.book, $4::date::timestamp AT TIME ZONE 'UTC' - interval '1 microsecond')
    FROM unnest($1::uuid[], $2::integer[], $3::date[]) AS k (account, book, first)
    CROSS JOIN LATERAL (SELECT o.number FROM account AS o WHERE o.id = k.account LIMIT 1) AS a
    UNION ALL
    SELECT b.account, b.number, b.book, b.first, e.day, e.debits, e.credits,
        CASE WHEN e.day > b.first THEN sequence_at(b.book, e.day::timestamp AT TIME ZONE 'UTC' - interval '1 microsecond') ELSE 0 END
    FROM back AS b
    CROSS JOIN LATERAL (
        SELECT (s.recorded_at AT TIME ZONE 'UTC')::date AS day, s.debits, s.credits FROM (
            (SELECT t.sequence, t.recorded_at, t.dr_debits_posted AS debits, t.dr_credits_posted AS credits
            FROM transfer AS t WHERE t.debit_number = b.number AND t.sequence <= b.upto ORDER BY t.sequence DESC LIMIT 1)
            UNION ALL
            (SELECT t.sequence, t.recorded_at, t.cr_debits_posted, t.cr_credits_posted
            FROM transfer AS t WHERE t.credit_number = b.number AND t.sequence <= b.upto ORDER BY t.sequence DESC LIMIT 1)
        ) AS s ORDER BY s.sequence DESC LIMIT 1
    ) AS e
    WHERE b.upto > 0
)
SELECT account, day, debits, credits FROM back WHERE day IS NOT NULL ORDER BY account, day;

-- name: day_adjustments
-- What to add to that for transfers that are dated back, per account and day (UTC).
SELECT t.account, (t.starts_at AT TIME ZONE 'UTC')::date AS day, t.debits, t.credits
FROM adjustment_total AS t WHERE t.account = ANY($1::uuid[]) AND t.span = 'day' ORDER BY t.account, t.starts_at;

-- name: draw_reversals
-- Adds up what is reversed of posted transfers ($3: their amounts). A CHECK refuses to reverse more than was posted.
INSERT INTO reversal (book, id, amount, reversed)
SELECT book, target, max(whole), sum(amount)::bigint
FROM unnest($1::integer[], $2::uuid[], $3::bigint[], $4::bigint[]) AS u (book, target, whole, amount)
GROUP BY book, target
ON CONFLICT (book, id) DO UPDATE SET reversed = reversal.reversed + excluded.reversed;

-- name: due_holds
-- Expired holds that still hold something, in the order of expiry. Left out are holds of books in quarantine, which take no writes, and of books
-- being restored: there, a later line of the file, maybe of another part, says how a hold ended.
SELECT b.tenant, h.book, h.id FROM hold AS h CROSS JOIN LATERAL (SELECT o.* FROM book AS o WHERE o.id = h.book LIMIT 1) AS b
WHERE h.remaining > 0 AND h.expires_at <= $1 AND b.quarantined_at IS NULL AND h.book <> ALL (ARRAY(
    SELECT i.book FROM import AS i WHERE i.state = 'queued'
        AND (SELECT l.record FROM import_line AS l WHERE l.import = i.id ORDER BY l.line LIMIT 1) LIKE '{"type":"book",%'
))
ORDER BY h.expires_at, h.id LIMIT $2;

-- name: due_holds_of
-- Expired holds that still hold something on these accounts.
SELECT b.tenant, h.book, h.id FROM hold AS h CROSS JOIN LATERAL (SELECT o.* FROM book AS o WHERE o.id = h.book LIMIT 1) AS b
WHERE h.remaining > 0 AND h.expires_at <= $1 AND (h.debit_account = ANY($3::uuid[]) OR h.credit_account = ANY($3::uuid[]))
ORDER BY h.expires_at, h.id LIMIT $2;

-- name: insert_account
-- A new account. Its history begins at the book's present sequence.
INSERT INTO account (id, book, name, path, kind, currency, normal_side, floor, ceiling, code, metadata, created_at, created_sequence)
SELECT $1, b.id, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, b.sequence FROM book AS b WHERE b.id = $2
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: close_account
-- Closes an account on which nothing is held. The book's lock is held.
UPDATE account SET closed_at = $3
WHERE id = $1 AND book = $2 AND closed_at IS NULL AND debits_pending = 0 AND credits_pending = 0
RETURNING id;

-- name: change_account
-- Changes what may be changed of an account. The book's lock is held; a CHECK refuses limits that the account does not keep.
UPDATE account SET name = $3, metadata = $4, floor = $5, ceiling = $6 WHERE id = $1 AND book = $2;

-- name: freeze_account
-- Freezes an account since $3; null unfreezes it. Returns nothing if that changes nothing. The book's lock is held.
UPDATE account SET frozen_at = $3
WHERE id = $1 AND book = $2 AND closed_at IS NULL AND (frozen_at IS NULL) = ($3::timestamptz IS NOT NULL)
RETURNING id;

-- name: account
-- One account of a tenant as of now. `due_*` is the part of its pending totals that belongs to holds that have expired by $3 but are not swept yet.
SELECT s.*, d.* FROM account_state AS s CROSS JOIN LATERAL due_on(s.id, $3) AS d WHERE s.tenant = $1 AND s.id = $2;

-- name: account_at_path
-- As `account`, for the account at the path $3 of the tenant's book $2.
SELECT s.*, d.* FROM account_state AS s CROSS JOIN LATERAL due_on(s.id, $4) AS d WHERE s.tenant = $1 AND s.book_name = $2 AND s.path = $3;

-- name: accounts
-- Accounts of the book $1, newest first, before the id $2. $4, $5 and $6 filter by currency, code and kind.
SELECT s.*, d.* FROM account_state AS s CROSS JOIN LATERAL due_on(s.id, $3) AS d
WHERE s.book = $1 AND ($2::uuid IS NULL OR s.id < $2)
    AND ($4::text IS NULL OR s.currency = $4) AND ($5::text IS NULL OR s.code = $5) AND ($6::text IS NULL OR s.kind = $6)
ORDER BY s.id DESC LIMIT $7;

-- name: accounts_at_paths
-- Accounts of the book $1 whose path is in the range from $8 to before $9 and matches the regular expression $10, in the order of paths, after
-- the path $2. The other parameters are as in `accounts`.
SELECT s.*, d.* FROM account_state AS s CROSS JOIN LATERAL due_on(s.id, $3) AS d
WHERE s.book = $1 AND s.path >= $8 AND s.path < $9 AND s.path > coalesce($2::text, '') AND s.path ~ $10
    AND ($4::text IS NULL OR s.currency = $4) AND ($5::text IS NULL OR s.code = $5) AND ($6::text IS NULL OR s.kind = $6)
ORDER BY s.path LIMIT $7;

-- name: find_accounts
-- What never changes about accounts ($1 tenants, $2 ids), and whether they are closed.
SELECT b.tenant, a.id, a.currency, a.normal_side, a.closed_at IS NOT NULL AS closed, b.name AS book
FROM unnest($1::text[], $2::uuid[]) AS k (tenant, id)
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.id = k.id LIMIT 1) AS a
JOIN book AS b ON b.id = a.book AND b.tenant = k.tenant;

-- name: account_at
-- An account's totals right after the book's sequence $3.
SELECT version, debits_pending, debits_posted, credits_pending, credits_posted FROM totals_at($2, $1, $3);

-- name: adjusted_at
-- What to add to an account's posted totals as recorded at an instant, to get those effective then.
SELECT debits, credits FROM adjusted_at($1, $2);

-- name: sequence_at
-- The last sequence of a book recorded up to an instant.
SELECT sequence_at($1, $2);

-- name: entries
-- An account's entries before the sequence $3, newest first: the newest of each side, merged.
SELECT e.* FROM (
    (SELECT sequence, id AS transfer, 'debit' AS side, credit_account AS other, kind, amount, released, currency, recorded_at, code,
        dr_version AS version, dr_debits_pending AS debits_pending, dr_debits_posted AS debits_posted,
        dr_credits_pending AS credits_pending, dr_credits_posted AS credits_posted, transaction,
        coalesce(effective_at, recorded_at) AS effective_at
    FROM transfer WHERE debit_number = (SELECT a.number FROM account AS a WHERE a.id = $2) AND book = $1 AND sequence < $3 ORDER BY sequence DESC LIMIT $4)
    UNION ALL
    (SELECT sequence, id, 'credit', debit_account, kind, amount, released, currency, recorded_at, code,
        cr_version, cr_debits_pending, cr_debits_posted, cr_credits_pending, cr_credits_posted, transaction,
        coalesce(effective_at, recorded_at)
    FROM transfer WHERE credit_number = (SELECT a.number FROM account AS a WHERE a.id = $2) AND book = $1 AND sequence < $3 ORDER BY sequence DESC LIMIT $4)
) AS e
ORDER BY e.sequence DESC LIMIT $4;

-- name: between
-- The transfers of a book with the sequences $2 to $3.
SELECT t.* FROM transfer AS t WHERE t.book = $1 AND t.sequence BETWEEN $2 AND $3 ORDER BY t.sequence;
