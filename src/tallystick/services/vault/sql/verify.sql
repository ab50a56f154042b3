-- What must hold in the vault. Each query gives the faults it finds, as text: none, if all is well.

-- name: destroyed_means_gone
-- A destroyed token holds no data; any other holds its sealed number.
SELECT format('token %s', id) AS fault FROM token WHERE (destroyed_at IS NOT NULL) <> (sealed IS NULL) LIMIT 20;

-- name: destroyed_answers_are_gone
-- With a token the stored answer that tells of it is gone.
SELECT format('token %s', t.id) AS fault
FROM idempotency AS i JOIN token AS t ON t.id = i.resource
WHERE t.destroyed_at IS NOT NULL AND i.status < 300
LIMIT 20;

-- name: values_have_their_keys
-- Each number is sealed, and the key that seals it still exists.
SELECT format('token %s', v.id) AS fault FROM token AS v
WHERE v.sealed IS NOT NULL AND NOT EXISTS (
    SELECT FROM data_key AS d
    WHERE d.key_id = substring(v.sealed FROM 4 FOR 8) AND d.tenant = v.tenant AND d.wrapped IS NOT NULL
      AND substring(v.sealed FROM 1 FOR 13) = '\x540101' || d.key_id || substring(int4send(d.version) FROM 3)
)
LIMIT 20;
