-- name: open_main
-- The tenant's main book, opened on first use. `recorded_at` is a microsecond earlier so that the first transfer may be recorded at the instant of
-- opening. The no-op update makes RETURNING work when the book exists.
INSERT INTO book (tenant, recorded_at, created_at) VALUES ($1, $2::timestamptz - interval '1 microsecond', $2)
ON CONFLICT (tenant, name) DO UPDATE SET sequence = book.sequence
RETURNING id;

-- name: insert_book
-- A new book. Returns nothing if the tenant has one of that name.
INSERT INTO book (tenant, name, description, backdating, shard, recorded_at, created_at) VALUES ($1, $2, $3, $4, $5, $6::timestamptz - interval '1 microsecond', $6)
ON CONFLICT (tenant, name) DO NOTHING
RETURNING id;

-- name: book_named
-- A tenant's book of this name.
SELECT id, sequence FROM book WHERE tenant = $1 AND name = $2;

-- name: book
-- A tenant's book of this name, with its settings.
SELECT id, tenant, name, description, backdating, sealed_until, quarantined_at, quarantine_reason, shard, sequence, revision, created_at
FROM book WHERE tenant = $1 AND name = $2;

-- name: books
-- A tenant's books by name, after the name $2.
SELECT id, tenant, name, description, backdating, sealed_until, quarantined_at, quarantine_reason, shard, sequence, revision, created_at
FROM book WHERE tenant = $1 AND ($2::text IS NULL OR name > $2) ORDER BY name LIMIT $3;

-- name: lock_whole_book
-- Locks a book so that nobody posts to it or opens an account in it until this transaction ends: a new account's foreign key waits for this lock.
SELECT id FROM book WHERE id = $1 FOR UPDATE;

-- name: set_book
-- Changes a book's settings. A trigger raises its revision.
UPDATE book SET description = $2, backdating = $3 WHERE id = $1;

-- name: chart
-- A book's chart: the version $2, or (null) the last one. The index is read backwards.
SELECT version, mode, rules::text, created_at FROM chart
WHERE book = $1 AND ($2::integer IS NULL OR version = $2) ORDER BY version DESC LIMIT 1;

-- name: insert_chart
-- A new version of a book's chart. The whole book is locked.
INSERT INTO chart (book, version, mode, rules, created_at) VALUES ($1, $2, $3, $4::text::jsonb, $5);

-- name: charted
-- What a chart checks about a book's open accounts, a page at a time by id.
SELECT id, path, kind, normal_side, currency, floor, ceiling FROM account
WHERE book = $1 AND id > $2 AND closed_at IS NULL ORDER BY id LIMIT $3;

-- name: extent_of_accounts
-- How many accounts a book has, and the highest of their numbers.
SELECT count(*), coalesce(max(number), 0) FROM account WHERE book = $1;

-- name: charted_after
-- What a chart checks about the accounts of a book with a number after $2, closed ones too.
SELECT id, path, kind, normal_side, currency, floor, ceiling, closed_at IS NOT NULL FROM account
WHERE book = $1 AND number > $2 ORDER BY number LIMIT $3;

-- name: count_accounts
-- How many accounts a book has.
SELECT count(*) FROM account WHERE book = $1;

-- name: seal_book
-- Seals a book: nothing can become effective at or before $2 any more. A seal only moves forward. The book's lock is held.
UPDATE book SET sealed_until = $2 WHERE id = $1 AND (sealed_until IS NULL OR sealed_until < $2) RETURNING id;

-- name: set_category
-- Creates or replaces a category.
INSERT INTO category (book, name, paths, categories, changed_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (book, name) DO UPDATE SET paths = excluded.paths, categories = excluded.categories, changed_at = excluded.changed_at;

-- name: delete_category
-- Deletes a category.
DELETE FROM category WHERE book = $1 AND name = $2 RETURNING name;

-- name: categories
-- All categories of a book. They are few, and their graph is read as a whole.
SELECT name, paths, categories, changed_at FROM category WHERE book = $1 ORDER BY name;

-- name: roll_up
-- The posted totals per currency of the accounts of the book $1 whose path is in a range from $2 to before $3 and matches the regular expression $4
-- of that range. Each account counts once.
SELECT a.currency, count(*) AS accounts, sum(a.debits_posted) AS debits, sum(a.credits_posted) AS credits
FROM (
    SELECT DISTINCT o.id
    FROM unnest($2::text[], $3::text[], $4::text[]) AS p (low, high, regex)
    -- The order of paths makes the planner use the index on paths; OFFSET keeps it from flattening the subquery.
    CROSS JOIN LATERAL (
        SELECT x.id FROM account AS x WHERE x.book = $1 AND x.path >= p.low AND x.path < p.high AND x.path ~ p.regex ORDER BY x.path OFFSET 0
    ) AS o
) AS k
CROSS JOIN LATERAL (SELECT o.* FROM account AS o WHERE o.id = k.id LIMIT 1) AS a
GROUP BY a.currency ORDER BY a.currency;
