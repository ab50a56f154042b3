-- What must hold in notify. Each query gives the faults it finds, as text: none, if all is well.

-- name: deliveries_end
-- A pending delivery has a time for its next attempt; any other has none.
SELECT format('delivery %s is %s, next at %s', id, status, next_at) AS fault
FROM delivery WHERE (status = 'pending') <> (next_at IS NOT NULL)
LIMIT 20;

-- name: deleted_endpoints_have_no_secret
-- With an endpoint its signing secret is gone, also from the stored answer of the request that created it.
SELECT format('endpoint %s', e.id) AS fault FROM endpoint AS e
WHERE e.deleted_at IS NOT NULL
  AND (e.sealed_secret <> '' OR EXISTS (SELECT FROM idempotency AS i WHERE i.resource = e.id AND i.status < 300))
LIMIT 20;

-- name: secrets_have_their_keys
-- Each signing secret of an endpoint that was not deleted is sealed, and the key that seals it still exists.
SELECT format('endpoint %s', v.id) AS fault FROM endpoint AS v
WHERE (v.deleted_at IS NULL OR v.sealed_secret <> '') AND NOT EXISTS (
    SELECT FROM data_key AS d
    WHERE d.key_id = substring(v.sealed_secret FROM 4 FOR 8) AND d.tenant = v.tenant AND d.wrapped IS NOT NULL
      AND substring(v.sealed_secret FROM 1 FOR 13) = '\x540101' || d.key_id || substring(int4send(d.version) FROM 3)
)
LIMIT 20;

-- name: answers_have_their_keys
-- The key that seals each stored answer with a secret still exists.
SELECT format('idempotency %s', v.resource) AS fault FROM idempotency AS v
WHERE substring(v.body FROM 1 FOR 3) = '\x540101' AND NOT EXISTS (
    SELECT FROM data_key AS d
    WHERE d.key_id = substring(v.body FROM 4 FOR 8) AND d.version = get_byte(v.body, 11) * 256 + get_byte(v.body, 12)
      AND d.tenant = v.tenant AND d.wrapped IS NOT NULL
)
LIMIT 20;
