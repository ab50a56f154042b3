-- name: open_main
-- The tenant's main book, made on first use. Its first transfer may be recorded at the very instant at which it is opened. The empty update returns it also when it was there.
INSERT INTO book (tenant, recorded_at, created_at) VALUES ($1, $2::timestamptz - interval '1 microsecond', $2)
ON CONFLICT (tenant, name) DO UPDATE SET sequence = book.sequence
RETURNING id;

-- name: insert_book
-- A new book; nothing if the tenant has one of that name.
INSERT INTO book (tenant, name, description, backdating, shard, recorded_at, created_at) VALUES ($1, $2, $3, $4, $5, $6::timestamptz - interval '1 microsecond', $6)
ON CONFLICT (tenant, name) DO NOTHING
RETURNING id;

-- name: book_named
-- A tenant's book of this name.
SELECT id, sequence FROM book WHERE tenant = $1 AND name = $2;

-- name: book
-- The same with its settings.
SELECT id, tenant, name, description, backdating, sealed_until, quarantined_at, quarantine_reason, shard, sequence, revision, created_at
FROM book WHERE tenant = $1 AND name = $2;

-- name: books
-- A tenant's books by name, after the name $2.
SELECT id, tenant, name, description, backdating, sealed_until, quarantined_at, quarantine_reason, shard, sequence, revision, created_at
FROM book WHERE tenant = $1 AND ($2::text IS NULL OR name > $2) ORDER BY name LIMIT $3;

-- name: lock_whole_book
-- Nobody posts to the book nor opens an account in it until this transaction ends: the reference from a new account waits for this lock.
SELECT id FROM book WHERE id = $1 FOR UPDATE;

-- name: set_book
-- A book's settings. Its revision grows by itself.
UPDATE book SET description = $2, backdating = $3 WHERE id = $1;

-- name: chart
-- A book's chart: the version $2, or the last one. The index is read backwards.
SELECT version, mode, rules::text, created_at FROM chart
WHERE book = $1 AND ($2::integer IS NULL OR version = $2) ORDER BY version DESC LIMIT 1;

-- name: insert_chart
-- A further version of a book's chart. The whole book is locked.
INSERT INTO chart (book, version, mode, rules, created_at) VALUES ($1, $2, $3, $4::text::jsonb, $5);

-- name: charted
-- The open accounts of a book as a chart looks at them, a page at a time by id.
SELECT id, path, kind, normal_side, currency, floor, ceiling FROM account
WHERE book = $1 AND id > $2 AND closed_at IS NULL ORDER BY id LIMIT $3;

-- name: seal_book
-- Nothing is effective at or before $2 any more. Only forwards. The book's lock is held.
UPDATE book SET sealed_until = $2 WHERE id = $1 AND (sealed_until IS NULL OR sealed_until < $2) RETURNING id;

-- name: set_category
-- A category as it is from now on.
INSERT INTO category (book, name, paths, categories, changed_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (book, name) DO UPDATE SET paths = excluded.paths, categories = excluded.categories, changed_at = excluded.changed_at;

-- name: delete_category
-- A category that is not needed any more.
DELETE FROM category WHERE book = $1 AND name = $2 RETURNING name;

-- name: categories
-- All categories of a book; a graph is looked at as a whole. They are few.
SELECT name, paths, categories, changed_at FROM category WHERE book = $1 ORDER BY name;

-- name: roll_up
-- What the accounts of the book $1 have posted that are at paths from $2 to before $3 as the regular expressions $4 say, per currency, each account
-- once.
SELECT a.currency, count(*) AS accounts, sum(a.debits_posted) AS debits, sum(a.credits_posted) AS credits
FROM (
    SELECT DISTINCT o.id
    FROM unnest($2::text[], $3::text[], $4::text[]) AS p (low, high, regex)
    -- In the order of paths, which says by which index to look; OFFSET keeps the planner from thinking better of it.
    CROSS JOIN LATERAL (
        SELECT x.id FROM account AS x WHERE x.book = $1 AND x.path >= p.low AND x.path < p.high AND x.path ~ p.regex ORDER BY x.path OFFSET 0
    ) AS o
) AS k
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.id = k.id LIMIT 1) AS a
GROUP BY a.currency ORDER BY a.currency;
