-- name: insert_import
-- A new import; nothing if the book has this content already, or is about to have it.
INSERT INTO import (id, book, tenant, actor, mode, dry_run, rows, sha256, wanted_sequence, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (book, sha256, mode, dry_run) WHERE state IN ('open', 'queued') OR (state = 'done' AND NOT dry_run) DO NOTHING;

-- name: import_of_content
-- The import that stands in the way of another of the same content.
SELECT i.*, b.name AS book_name, (SELECT count(*) FROM import_line AS l WHERE l.import = i.id) AS staged
FROM import AS i JOIN book AS b ON b.id = i.book
WHERE i.book = $1 AND i.sha256 = $2 AND i.mode = $3 AND i.dry_run = $4 AND (i.state IN ('open', 'queued') OR (i.state = 'done' AND NOT i.dry_run));

-- name: import_by_id
-- One import of a tenant.
SELECT i.*, b.name AS book_name, (SELECT count(*) FROM import_line AS l WHERE l.import = i.id) AS staged
FROM import AS i JOIN book AS b ON b.id = i.book WHERE i.id = $1 AND i.tenant = $2;

-- name: lock_import
-- The import, for whoever changes its state or its lines.
SELECT state FROM import WHERE id = $1 FOR UPDATE;

-- name: share_import
-- The import, which must stay open while lines come in.
SELECT state FROM import WHERE id = $1 FOR SHARE;

-- name: stage
-- Lines of an import; those that came before stay as they are.
INSERT INTO import_line (import, line, posting, record)
SELECT $1, n.line, n.posting, n.record FROM unnest($2::integer[], $3::boolean[], $4::text[]) AS n (line, posting, record)
ON CONFLICT (import, line) DO NOTHING;

-- name: count_staged
-- How many lines an import has.
SELECT count(*) FROM import_line WHERE import = $1;

-- name: queue_import
-- All lines are there: whoever runs imports takes it.
UPDATE import SET state = 'queued' WHERE id = $1 AND state = 'open';

-- name: next_import
-- The import that has waited longest.
SELECT i.*, b.name AS book_name, 0::bigint AS staged
FROM import AS i JOIN book AS b ON b.id = i.book WHERE i.state = 'queued' ORDER BY i.created_at LIMIT 1;

-- name: try_import
-- One more try; counted before it begins, so that one which takes the process with it is counted too.
UPDATE import SET tries = tries + 1 WHERE id = $1 AND state = 'queued' RETURNING tries;

-- name: staged
-- The lines of an import after $2.
SELECT line, record FROM import_line WHERE import = $1 AND line > $2 ORDER BY line LIMIT $3;

-- name: staged_settings
-- The same for those that are no transfers and were not refused.
SELECT l.line, l.record FROM import_line AS l
WHERE l.import = $1 AND l.line > $2 AND NOT l.posting
    AND NOT EXISTS (SELECT FROM import_refusal AS r WHERE r.import = l.import AND r.line = l.line)
ORDER BY l.line LIMIT $3;

-- name: progress
-- How far an import came for good. A try that came further is one that counts.
UPDATE import SET line = $2, tries = 0, accounts = $3, accounts_known = $4, transfers = $5, transfers_known = $6, refused = $7 WHERE id = $1;

-- name: insert_refusals
-- Lines that were refused.
INSERT INTO import_refusal (import, line, field, reason, detail)
SELECT $1, n.line, n.field, n.reason, n.detail FROM unnest($2::integer[], $3::text[], $4::text[], $5::text[]) AS n (line, field, reason, detail)
ON CONFLICT (import, line) DO NOTHING;

-- name: refusals
-- Lines that an import refused, after the line $2.
SELECT line, field, reason, detail FROM import_refusal WHERE import = $1 AND line > $2 ORDER BY line LIMIT $3;

-- name: finish_import
-- What became of it.
UPDATE import SET state = $2, reason = $3, sequence = $4, finished_at = $5 WHERE id = $1;

-- name: forget_lines
-- The lines of an import that is finished.
DELETE FROM import_line WHERE import = $1;

-- name: stale_imports
-- Imports whose lines stopped coming.
SELECT id FROM import WHERE state = 'open' AND created_at < $1 LIMIT 100;

-- name: book_has_accounts
-- Whether a book has an account already.
SELECT EXISTS (SELECT FROM account WHERE book = $1 LIMIT 1);

-- name: accounts_as_they_are
-- Accounts by id ($1): what an import compares.
SELECT id, book, name, path, kind, currency, normal_side, floor, ceiling, code, metadata FROM account WHERE id = ANY($1::uuid[]);

-- name: paths_taken
-- Which of these paths ($2) accounts of the book have.
SELECT path, id FROM account WHERE book = $1 AND path = ANY($2::text[]);

-- name: insert_accounts
-- New accounts of a book, many at once. The whole book is locked.
INSERT INTO account (id, book, name, path, kind, currency, normal_side, floor, ceiling, code, metadata, created_at, created_sequence)
SELECT n.id, b.id, n.name, n.path, n.kind, n.currency, n.normal_side, n.floor, n.ceiling, n.code, n.metadata, $2, b.sequence
FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::text[], $12::text[])
    AS n (id, name, path, kind, currency, normal_side, floor, ceiling, code, metadata)
JOIN book AS b ON b.id = $1;

-- name: limit_accounts
-- The limits of accounts, once all that was posted to them is there. A CHECK refuses those that an account does not keep.
UPDATE account AS a SET floor = n.floor, ceiling = n.ceiling
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[]) AS n (id, floor, ceiling) WHERE a.id = n.id AND a.book = $1;

-- name: exported_accounts
-- The accounts of a book by id, after the id $2: those that were there at the sequence $3.
SELECT s.* FROM account_state AS s WHERE book = $1 AND id > $2 AND created_sequence <= $3 ORDER BY id LIMIT $4;

-- name: transactions_between
-- The transactions of a book that begin within the sequences $2 to $3.
SELECT book, id, first, last, recorded_at, effective_at, reference, description, metadata, reverses, exchanges
FROM transaction WHERE book = $1 AND first BETWEEN $2 AND $3 ORDER BY first;

-- name: transaction_around
-- The transaction that the transfer with the sequence $2 is part of; the last that begins up to there, if it reaches so far.
SELECT x.first, x.last FROM (SELECT first, last FROM transaction WHERE book = $1 AND first <= $2 ORDER BY first DESC LIMIT 1) AS x
WHERE x.last >= $2;
