-- Identity's queries. A statement per name; the store is the only one that runs them.

-- name: insert_tenant
-- Nothing comes back when the name is taken.
INSERT INTO tenant (name, created_at) VALUES ($1, $2)
ON CONFLICT (name) DO NOTHING
RETURNING name, created_at;

-- name: list_tenants
-- A page of tenants, by name.
SELECT name, created_at FROM tenant WHERE name > $1 ORDER BY name LIMIT $2;

-- name: insert_client
-- Nothing comes back when there is no such tenant.
INSERT INTO client (id, tenant, name, scopes, keys, created_at, tls_client_certificate_bound_access_tokens)
SELECT $1, tenant.name, $3, $4, $5, $6, $7 FROM tenant WHERE tenant.name = $2
RETURNING id;

-- name: get_client
-- One client, to authenticate it or to say whose it is.
SELECT id, tenant, name, scopes, keys, created_at, revoked_at, tls_client_certificate_bound_access_tokens FROM client WHERE id = $1;

-- name: list_clients
-- $1: a tenant, or null for all of them.
SELECT id, tenant, name, scopes, keys, created_at, revoked_at, tls_client_certificate_bound_access_tokens FROM client
WHERE ($1::text IS NULL OR tenant = $1) AND id > $2
ORDER BY id LIMIT $3;

-- name: revoke_client
-- Nothing comes back when there is none, or when it is revoked already: the first instant stays.
UPDATE client SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL
RETURNING id, tenant, name, scopes, keys, created_at, revoked_at, tls_client_certificate_bound_access_tokens;

-- name: use_assertion
-- The primary key lets one of any number of racing requests through: the others get nothing back.
INSERT INTO assertion_use (client_id, jti_hash, expires_at) VALUES ($1, $2, $3)
ON CONFLICT (client_id, jti_hash) DO NOTHING
RETURNING true;

-- name: forget_assertions
-- Those that every replica refuses for their age.
DELETE FROM assertion_use WHERE expires_at < $1;

-- name: lock_signing_keys
-- Whoever changes keys holds this until the end of the transaction: two rotations never interleave.
SELECT pg_advisory_xact_lock(7455081);

-- name: all_signing_keys
-- Every key that ever was, without its private half.
SELECT kid, purpose, state, public_jwk, created_at, activated_at, retiring_at, retired_at FROM signing_key ORDER BY created_at, kid;

-- name: usable_signing_keys
-- Those that sign or whose tokens may still be about, with their sealed private halves.
SELECT kid, purpose, state, public_jwk, created_at, activated_at, retiring_at, retired_at, sealed_private
FROM signing_key WHERE state <> 'retired' ORDER BY created_at, kid;

-- name: insert_signing_key
-- A new key, pending or active from the start.
INSERT INTO signing_key (kid, purpose, state, public_jwk, sealed_private, created_at, activated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: activate_signing_key
-- The pending key begins to sign.
UPDATE signing_key SET state = 'active', activated_at = $2 WHERE kid = $1 AND state = 'pending';

-- name: retire_signing_key_soon
-- It signs no more, but its tokens are still about.
UPDATE signing_key SET state = 'retiring', retiring_at = $2 WHERE kid = $1 AND state = 'active';

-- name: retire_signing_key
-- The private half is erased: a retired key can't sign again.
UPDATE signing_key SET state = 'retired', retired_at = $2, sealed_private = NULL WHERE kid = $1 AND state <> 'retired'
RETURNING kid, purpose, state, public_jwk, created_at, activated_at, retiring_at, retired_at;

-- name: lock_epoch
-- The row's lock puts revocations into one order.
SELECT epoch FROM revocation_epoch FOR UPDATE;

-- name: find_revocation
-- Run under the lock: what is revoked already stays as it is, its epoch was told.
SELECT epoch FROM revocation WHERE kind = $1 AND id = $2;

-- name: insert_revocation
-- Run under the lock: the next epoch and its revocation, together or not at all.
WITH next AS (
    UPDATE revocation_epoch SET epoch = epoch + 1 RETURNING epoch
)
INSERT INTO revocation (epoch, kind, id, until) SELECT epoch, $1, $2, $3 FROM next
RETURNING epoch;

-- name: current_epoch
-- How many revocations there were.
SELECT epoch FROM revocation_epoch;

-- name: revocations
-- One statement, so that the epoch and the list belong together.
SELECT revocation_epoch.epoch AS current, revocation.epoch, revocation.kind, revocation.id, revocation.until
FROM revocation_epoch LEFT JOIN revocation ON revocation.until >= $1
ORDER BY revocation.epoch;

-- name: revocations_since
-- For the feed: those that a publication may have missed.
SELECT epoch, kind, id, until FROM revocation WHERE epoch > $1 ORDER BY epoch LIMIT 1000;

-- name: forget_revocations
-- Those that nobody can show a token for any more.
DELETE FROM revocation WHERE until < $1;

-- name: token_standing
-- Whether an access token is still good: its client, and any revocation of the token, the client or its signing key.
SELECT client.revoked_at IS NOT NULL AS client_revoked,
    EXISTS (
        SELECT FROM revocation
        WHERE (revocation.kind = 'jti' AND revocation.id = $2)
            OR (revocation.kind = 'client' AND revocation.id = $3)
            OR (revocation.kind = 'kid' AND revocation.id = $4)
            OR CASE WHEN revocation.kind = 'all-before' THEN revocation.id::bigint > $5 ELSE false END
    ) AS revoked
FROM client WHERE client.id = $1 AND client.tenant = $6;

-- name: signing_keys_under
-- Private halves under an older key of the platform's, for the rotation of that. The platform's own tenant has them all.
SELECT kid AS key, 'platform' AS tenant, sealed_private AS sealed FROM signing_key
WHERE substring(sealed_private FROM 1 FOR 13) = $1 AND ($2::text IS NULL OR kid > $2)
ORDER BY kid LIMIT $3
FOR UPDATE SKIP LOCKED;

-- name: count_signing_keys_under
-- How many there are.
SELECT count(*) FROM signing_key WHERE substring(sealed_private FROM 1 FOR 13) = $1;

-- name: save_signing_keys
-- The same keys, sealed anew.
UPDATE signing_key AS s SET sealed_private = n.sealed FROM unnest($1::text[], $2::bytea[]) AS n (kid, sealed)
WHERE s.kid = n.kid AND s.state <> 'retired';
