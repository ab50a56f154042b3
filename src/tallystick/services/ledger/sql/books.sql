-- name: open_main
-- The tenant's main book, made on first use. The empty update returns it also when it was there.
INSERT INTO book (tenant, recorded_at, created_at) VALUES ($1, $2, $2)
ON CONFLICT (tenant, name) DO UPDATE SET sequence = book.sequence
RETURNING id;

-- name: insert_book
-- A new book; nothing if the tenant has one of that name.
INSERT INTO book (tenant, name, description, backdating, recorded_at, created_at) VALUES ($1, $2, $3, $4, $5, $5)
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
