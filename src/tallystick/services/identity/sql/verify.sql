-- What must hold in identity. Each query gives the faults it finds, as text: none, if all is well.

-- name: one_key_of_each_purpose_signs
-- Exactly one key is active for each purpose.
SELECT format('%s: %s active keys', purpose, count(*) FILTER (WHERE state = 'active')) AS fault
FROM signing_key GROUP BY purpose HAVING count(*) FILTER (WHERE state = 'active') <> 1;

-- name: values_have_their_keys
-- Each private signing key is sealed, and the key that seals it still exists.
SELECT format('signing_key %s', v.kid) AS fault FROM signing_key AS v
WHERE v.sealed_private IS NOT NULL AND NOT EXISTS (
    SELECT FROM data_key AS d
    WHERE d.key_id = substring(v.sealed_private FROM 4 FOR 8) AND d.tenant = 'platform' AND d.wrapped IS NOT NULL
      AND substring(v.sealed_private FROM 1 FOR 13) = '\x540101' || d.key_id || substring(int4send(d.version) FROM 3)
)
LIMIT 20;
