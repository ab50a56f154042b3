-- name: insert_import
-- A new import. Inserts nothing if the same content was imported, or is being imported, into the book in the same mode.
INSERT INTO import (id, book, tenant, actor, mode, dry_run, rows, sha256, wanted_sequence, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (book, sha256, mode, dry_run) WHERE state IN ('open', 'queued') OR (state = 'done' AND NOT dry_run) DO NOTHING
RETURNING id;

-- name: import_of_content
-- The import because of which the same content is not imported again.
SELECT i.*, b.name AS book_name, (SELECT count(*) FROM import_line AS l WHERE l.import = i.id) AS staged,
    w.since AS waiting_since, w.due_at, w.reason AS waits_for
FROM import AS i JOIN book AS b ON b.id = i.book LEFT JOIN import_wait AS w ON w.import = i.id
WHERE i.book = $1 AND i.sha256 = $2 AND i.mode = $3 AND i.dry_run = $4 AND (i.state IN ('open', 'queued') OR (i.state = 'done' AND NOT i.dry_run));

-- name: import_by_id
-- One import of a tenant.
SELECT i.*, b.name AS book_name, (SELECT count(*) FROM import_line AS l WHERE l.import = i.id) AS staged,
    w.since AS waiting_since, w.due_at, w.reason AS waits_for
FROM import AS i JOIN book AS b ON b.id = i.book LEFT JOIN import_wait AS w ON w.import = i.id
WHERE i.id = $1 AND i.tenant = $2;

-- name: lock_import
-- Locks an import to change its state or its lines.
SELECT state, line, accounts, accounts_known, transfers, transfers_known, refused FROM import WHERE id = $1 FOR UPDATE;

-- name: share_import
-- Locks an import in share mode: it must stay open while lines are staged, which several requests may do at once.
SELECT state FROM import WHERE id = $1 FOR SHARE;

-- name: stage
-- Stages lines of an import. Lines that were staged before stay as they are.
INSERT INTO import_line (import, line, posting, record)
SELECT $1, n.line, n.posting, n.record FROM unnest($2::integer[], $3::boolean[], $4::text[]) AS n (line, posting, record)
ON CONFLICT (import, line) DO NOTHING
RETURNING line;

-- name: count_staged
-- How many lines of an import are staged.
SELECT count(*) FROM import_line WHERE import = $1;

-- name: queue_import
-- Queues an import for the runner: all its lines are staged.
UPDATE import SET state = 'queued' WHERE id = $1 AND state = 'open';

-- name: next_import
-- The oldest queued import, but none that waits now ($1) to be run again. It does not wait for longer than up to $2: if it should, the clock was
-- set back.
SELECT i.*, b.name AS book_name, 0::bigint AS staged, w.since AS waiting_since, w.due_at, w.reason AS waits_for
FROM import AS i JOIN book AS b ON b.id = i.book LEFT JOIN import_wait AS w ON w.import = i.id
WHERE i.state = 'queued' AND (w.due_at > $1 AND w.due_at <= $2) IS NOT TRUE ORDER BY i.created_at LIMIT 1;

-- name: try_import
-- Counts one more run. It is counted before it begins, and is not to be repeated before $3, so that a run that kills its process is counted and
-- followed by a pause too.
WITH tried AS (
    UPDATE import SET tries = tries + 1 WHERE id = $1 AND state = 'queued' RETURNING id, tries
), wait AS (
    INSERT INTO import_wait (import, since, due_at) SELECT id, $2, $3 FROM tried ON CONFLICT (import) DO UPDATE SET due_at = $3
)
SELECT tries FROM tried;

-- name: runs_of_import
-- The runs of an import that are counted since it got further, and since when it has been waiting.
SELECT i.tries, w.since FROM import AS i LEFT JOIN import_wait AS w ON w.import = i.id WHERE i.id = $1;

-- name: put_off_import
-- The import waits up to $3 because of $4. $5: its last run is not counted.
WITH wait AS (
    INSERT INTO import_wait (import, since, due_at, reason) VALUES ($1, $2, $3, $4)
    ON CONFLICT (import) DO UPDATE SET due_at = $3, reason = $4
)
UPDATE import SET tries = greatest(tries - $5::boolean::integer, 0) WHERE id = $1;

-- name: staged
-- The lines of an import after $2.
SELECT line, record FROM import_line WHERE import = $1 AND line > $2 ORDER BY line LIMIT $3;

-- name: staged_settings
-- The staged lines after $2 that are not transfers and were not refused.
SELECT l.line, l.record FROM import_line AS l
WHERE l.import = $1 AND l.line > $2 AND NOT l.posting
    AND NOT EXISTS (SELECT FROM import_refusal AS r WHERE r.import = l.import AND r.line = l.line)
ORDER BY l.line LIMIT $3;

-- name: progress
-- Stores the progress of an import. With it, the count of runs and the wait begin anew.
WITH gone AS (DELETE FROM import_wait WHERE import = $1)
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
-- The outcome of an import.
WITH gone AS (DELETE FROM import_wait WHERE import = $1)
UPDATE import SET state = $2, reason = $3, sequence = $4, finished_at = $5 WHERE id = $1;

-- name: forget_lines
-- Deletes the staged lines of a finished import.
DELETE FROM import_line WHERE import = $1;

-- name: stale_imports
-- Imports that were announced before $1 and never started.
SELECT id FROM import WHERE state = 'open' AND created_at < $1 LIMIT 100;

-- name: book_has_accounts
-- Whether a book has an account already.
SELECT EXISTS (SELECT FROM account WHERE book = $1 LIMIT 1);

-- name: accounts_as_they_are
-- Accounts by id ($1), with the columns that an import compares.
SELECT id, book, name, path, kind, currency, normal_side, floor, ceiling, code, metadata FROM account WHERE id = ANY($1::uuid[]);

-- name: paths_taken
-- Those of the paths $2 at which the book has accounts.
SELECT path, id FROM account WHERE book = $1 AND path = ANY($2::text[]);

-- name: insert_accounts
-- New accounts of a book, in bulk. The whole book is locked.
INSERT INTO account (id, book, name, path, kind, currency, normal_side, floor, ceiling, code, metadata, created_at, created_sequence)
SELECT n.id, b.id, n.name, n.path, n.kind, n.currency, n.normal_side, n.floor, n.ceiling, n.code, n.metadata, $2, b.sequence
FROM unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::bigint[], $10::bigint[], $11::text[], $12::text[])
    AS n (id, name, path, kind, currency, normal_side, floor, ceiling, code, metadata)
JOIN book AS b ON b.id = $1;

-- name: limit_accounts
-- Sets the limits of accounts, after everything was posted to them. A CHECK refuses limits that an account does not keep.
UPDATE account AS a SET floor = n.floor, ceiling = n.ceiling
FROM unnest($2::uuid[], $3::bigint[], $4::bigint[]) AS n (id, floor, ceiling) WHERE a.id = n.id AND a.book = $1;

-- name: exported_accounts
-- The accounts of a book that existed at the sequence $3, by id, after the id $2.
SELECT s.* FROM account_state AS s WHERE book = $1 AND id > $2 AND created_sequence <= $3 ORDER BY id LIMIT $4;

-- name: transactions_between
-- The transactions of a book that begin at the sequences $2 to $3.
SELECT book, id, first, last, recorded_at, effective_at, reference, description, metadata, reverses, exchanges
FROM transaction WHERE book = $1 AND first BETWEEN $2 AND $3 ORDER BY first;

-- name: transaction_around
-- The transaction to which the transfer with the sequence $2 belongs: the last one that begins up to there, if it reaches that far.
SELECT x.first, x.last FROM (SELECT first, last FROM transaction WHERE book = $1 AND first <= $2 ORDER BY first DESC LIMIT 1) AS x
WHERE x.last >= $2;
