-- What must hold in the log. Each query gives the faults it finds, as text: none, if all is well.

-- name: entries_have_no_gaps
-- Entries are numbered 0, 1, 2 ... up to the head.
SELECT format('%s entries from %s to %s, the head is at %s', count(e.index), min(e.index), max(e.index), h.size) AS fault
FROM head AS h LEFT JOIN entry AS e ON true
GROUP BY h.size
HAVING count(e.index) <> h.size OR coalesce(max(e.index) + 1, 0) <> h.size;

-- name: services_have_no_gaps
-- Each service's facts are numbered 1, 2, 3 ... in the log, in order and without repeats.
SELECT format('%s: fact %s comes after %s', service, seq, before) AS fault
FROM (SELECT service, seq, lag(seq, 1, 0::bigint) OVER (PARTITION BY service ORDER BY index) AS before FROM entry) AS e
WHERE seq <> before + 1
LIMIT 20;

-- name: commitments_are_of_the_facts
-- Each commitment is the hash of the fact stored with it.
SELECT format('entry %s', index) AS fault FROM entry WHERE fact IS NOT NULL AND sha256(fact) <> digest LIMIT 20;

-- name: entries_are_of_their_tenants
-- The tenant that may read a fact is the one named in it.
SELECT format('entry %s is kept as one of %s', index, tenant) AS fault
FROM entry WHERE fact IS NOT NULL AND convert_from(fact, 'UTF8')::jsonb ->> 'tenant' IS DISTINCT FROM tenant
LIMIT 20;

-- name: values_have_their_keys
-- The log's signing key is sealed, and the key that seals it still exists.
SELECT format('log_key %s', v.name) AS fault FROM log_key AS v
WHERE v.sealed IS NOT NULL AND NOT EXISTS (
    SELECT FROM data_key AS d
    WHERE d.key_id = substring(v.sealed FROM 4 FOR 8) AND d.tenant = 'platform' AND d.wrapped IS NOT NULL
      AND substring(v.sealed FROM 1 FOR 13) = '\x540101' || d.key_id || substring(int4send(d.version) FROM 3)
)
LIMIT 20;
