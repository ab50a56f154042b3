-- name: service_keys
-- All versions of the service key that still exist, and of the derivation key: read once at start.
SELECT key_id, version, kind, tenant, subject, state, wrapped_by, wrapped, check_value
FROM data_key
WHERE kind IN ('service', 'derivation') AND wrapped IS NOT NULL
ORDER BY kind, version;

-- name: service_key_versions
-- The versions of the service key that still exist, oldest first, for who looks after the root.
SELECT version, state, created_at, wrapped FROM data_key WHERE kind = 'service' AND wrapped IS NOT NULL ORDER BY version;

-- name: active_tenant_key
-- The key that a tenant's new values are sealed with.
SELECT key_id, version, kind, tenant, subject, state, wrapped_by, wrapped, check_value
FROM data_key
WHERE kind = 'tenant' AND tenant = $1 AND subject = '' AND state = 'active';

-- name: keys_by_id
-- The keys that headers of sealed values name, destroyed ones included.
SELECT k.key_id, k.version, k.kind, k.tenant, k.subject, k.state, k.wrapped_by, k.wrapped, k.check_value
FROM unnest($1::bytea[], $2::integer[]) AS wanted (key_id, version)
JOIN data_key AS k ON k.key_id = wanted.key_id AND k.version = wanted.version;

-- name: insert_service_key
-- The first or next version of the service key. Of two replicas that start at once, one wins.
INSERT INTO data_key (key_id, version, kind, wrapped, check_value)
VALUES ($1, $2, 'service', $3, $4)
ON CONFLICT DO NOTHING;

-- name: insert_keys
-- New keys under the service key. None is stored unless that service key is the active one, and the share lock keeps it so
-- until this transaction ends: no key is ever wrapped by a service key that a rotation has already taken for empty.
INSERT INTO data_key (key_id, version, kind, tenant, subject, wrapped_by, wrapped, check_value)
SELECT new.key_id, new.version, new.kind, new.tenant, new.subject, parent.version, new.wrapped, new.check_value
FROM (
    SELECT version FROM data_key
    WHERE kind = 'service' AND version = $1 AND state = 'active'
    FOR SHARE
) AS parent
CROSS JOIN unnest($2::bytea[], $3::integer[], $4::text[], $5::text[], $6::text[], $7::bytea[], $8::bytea[])
    AS new (key_id, version, kind, tenant, subject, wrapped, check_value)
ON CONFLICT DO NOTHING
RETURNING key_id;

-- name: service_key_is_active
-- Whether this version of the service key may wrap new keys; locked so that it stays so.
SELECT version FROM data_key WHERE kind = 'service' AND version = $1 AND state = 'active' FOR SHARE;

-- name: service_key_age
-- When the active service key was made, and how many keys an older one still holds.
SELECT s.created_at, EXISTS (
    SELECT FROM data_key AS k WHERE k.wrapped_by > 0 AND k.wrapped_by < s.version AND k.wrapped IS NOT NULL
) AS unfinished
FROM data_key AS s WHERE s.kind = 'service' AND s.state = 'active';

-- name: retire_active
-- Takes the active key of a kind out of use for new values, if it is still this version. Its old values stay readable.
UPDATE data_key SET state = 'retired', retired_at = $5
WHERE kind = $1 AND tenant = $2 AND subject = $3 AND version = $4 AND state = 'active'
RETURNING version;

-- name: keys_wrapped_by_old
-- A page of the keys that are not wrapped by the given version of the service key.
SELECT key_id, version, kind, tenant, subject, state, wrapped_by, wrapped, check_value
FROM data_key
WHERE wrapped_by > 0 AND wrapped_by < $1 AND wrapped IS NOT NULL
ORDER BY wrapped_by, key_id, version
LIMIT $2
FOR UPDATE SKIP LOCKED;

-- name: count_wrapped_by_old
-- How many keys an old version of the service key still holds.
SELECT count(*) FROM data_key WHERE wrapped_by > 0 AND wrapped_by < $1 AND wrapped IS NOT NULL;

-- name: rewrap_keys
-- The same keys, wrapped anew.
UPDATE data_key AS k SET wrapped_by = $1, wrapped = new.wrapped
FROM unnest($2::bytea[], $3::integer[], $4::bytea[]) AS new (key_id, version, wrapped)
WHERE k.key_id = new.key_id AND k.version = new.version AND k.wrapped IS NOT NULL;

-- name: destroy_empty_service_keys
-- Old versions of the service key that hold no key any more.
UPDATE data_key AS old SET state = 'destroyed', wrapped = NULL, destroyed_at = $2
WHERE old.kind = 'service' AND old.state = 'retired' AND old.version < $1
  AND NOT EXISTS (SELECT FROM data_key AS held WHERE held.wrapped_by = old.version AND held.wrapped IS NOT NULL)
RETURNING old.version;

-- name: destroy_retired_tenant_keys
-- Tenant keys that were retired before the given time.
UPDATE data_key SET state = 'destroyed', wrapped = NULL, destroyed_at = $2
WHERE kind = 'tenant' AND state = 'retired' AND retired_at < $1
RETURNING key_id, version;

-- name: shred
-- Destroys all keys of the given subjects of a tenant, and with them all that was sealed for these subjects.
UPDATE data_key SET state = 'destroyed', wrapped = NULL, destroyed_at = $3
WHERE kind = 'subject' AND tenant = $1 AND subject = ANY ($2::text[]) AND wrapped IS NOT NULL
RETURNING key_id, version;

-- name: tenants_with_keys
-- The tenants that have an active key: what a rotation goes through.
SELECT tenant FROM data_key WHERE kind = 'tenant' AND state = 'active' AND tenant > $1 ORDER BY tenant LIMIT $2;

-- name: rewrap_progress
-- Where a re-wrap of a column stands; locked, so that one replica does the next page.
SELECT after_key, scanned, rewrapped, started_at, finished_at FROM rewrap_progress WHERE job = $1 FOR UPDATE;

-- name: begin_rewrap
-- A new pass over a column, unless one is under way.
INSERT INTO rewrap_progress (job, started_at) VALUES ($1, $2)
ON CONFLICT (job) DO UPDATE
SET after_key = '', scanned = 0, rewrapped = 0, started_at = excluded.started_at, finished_at = NULL
WHERE rewrap_progress.finished_at IS NOT NULL;

-- name: advance_rewrap
-- The page is done: in the transaction that changed its rows.
UPDATE rewrap_progress
SET after_key = $2, scanned = scanned + $3, rewrapped = rewrapped + $4, finished_at = $5
WHERE job = $1;
