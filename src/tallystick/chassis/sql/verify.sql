-- What must hold in every service's database. Each query gives the faults it finds, as text: none, if all is well.

-- name: dead_letters_are_answered
-- No fact lies unhandled: each was replayed or discarded by a person.
SELECT format('fact %s of %s waits for %s since %s: %s', seq, source, consumer, at, error) AS fault
FROM dead_letter WHERE state IN ('waiting', 'requested') ORDER BY at LIMIT 20;

-- name: batches_are_numbered_without_gaps
-- The numbers that the relay gave are 1, 2, 3 ... and end at its cursor.
SELECT format('batch %s begins after %s', b.first, b.before) AS fault
FROM (SELECT first, count, lag(first + count, 1, first) OVER (ORDER BY first) AS before FROM outbox_batch) AS b
WHERE b.first <> b.before
UNION ALL
SELECT format('the last batch ends at %s, the cursor is at %s', l.ends, c.seq)
FROM (SELECT max(first + count - 1) AS ends FROM outbox_batch) AS l, outbox_cursor AS c
WHERE l.ends <> c.seq
LIMIT 20;

-- name: facts_are_of_their_types
-- A fact is kept under the type that it says it is of.
SELECT format('fact %s is kept as %s', id, type) AS fault
FROM outbox WHERE convert_from(fact, 'UTF8')::jsonb ->> 'type' IS DISTINCT FROM type
LIMIT 20;

-- name: keys_are_in_use_or_gone
-- Each key that still exists has one version for new values.
SELECT format('%s key of %s%s: %s versions are active', kind, tenant, subject, count(*) FILTER (WHERE state = 'active')) AS fault
FROM data_key WHERE wrapped IS NOT NULL
GROUP BY kind, tenant, subject HAVING count(*) FILTER (WHERE state = 'active') <> 1
LIMIT 20;
