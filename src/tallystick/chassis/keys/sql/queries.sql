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
INSERT INTO data_key (key_id, version, kind, wrapped, check_value, created_at)
VALUES ($1, $2, 'service', $3, $4, $5)
ON CONFLICT DO NOTHING;

-- name: insert_keys
-- New keys under the service key. None is stored unless that service key is the active one, and the share lock keeps it so
-- until this transaction ends: no key is ever wrapped by a service key that a rotation has already taken for empty.
INSERT INTO data_key (key_id, version, kind, tenant, subject, wrapped_by, wrapped, check_value, created_at)
SELECT new.key_id, new.version, new.kind, new.tenant, new.subject, parent.version, new.wrapped, new.check_value, $9
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
-- When the active service key was made, whether a new one was asked for since, and whether an older one still holds keys.
SELECT s.created_at,
    EXISTS (SELECT FROM key_rotation AS r WHERE r.tenant = '' AND r.asked_at > s.created_at) AS asked,
    EXISTS (
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

-- name: lock_subject_keys
-- Before `shred`, in a statement of its own: a rotation of these keys is over when this answers, and `shred` sees the successors too.
SELECT FROM data_key
WHERE kind = 'subject' AND tenant = $1 AND subject = ANY ($2::text[]) AND wrapped IS NOT NULL
ORDER BY key_id, version
FOR UPDATE;

-- name: shred
-- Destroys all keys of the given subjects of a tenant, and with them all that was sealed for these subjects.
UPDATE data_key SET state = 'destroyed', wrapped = NULL, destroyed_at = $3
WHERE kind = 'subject' AND tenant = $1 AND subject = ANY ($2::text[]) AND wrapped IS NOT NULL
RETURNING key_id, version;

-- name: ask_for_rotation
-- An operator wants successors of all keys of a tenant ('': of all tenants, and of the service itself) that are there now.
INSERT INTO key_rotation (tenant, asked_at) VALUES ($1, $2)
ON CONFLICT (tenant) DO UPDATE SET asked_at = excluded.asked_at;

-- name: tenant_has_keys
-- Whether anything of a tenant's was ever sealed here.
SELECT EXISTS (SELECT FROM data_key WHERE kind IN ('tenant', 'subject') AND tenant = $1 AND state = 'active');

-- name: rotations_asked_for
-- What operators asked for and is not done yet.
SELECT tenant, asked_at FROM key_rotation ORDER BY tenant;

-- name: forget_rotations_done
-- Those by which nothing is due any more.
DELETE FROM key_rotation AS r
WHERE NOT EXISTS (
    SELECT FROM data_key AS k
    WHERE k.kind = 'subject' AND k.state = 'active' AND k.created_at < r.asked_at AND k.tenant = r.tenant
) AND NOT EXISTS (
    SELECT FROM data_key AS k
    WHERE k.kind = 'subject' AND k.state = 'active' AND k.created_at < r.asked_at AND r.tenant = ''
) AND NOT EXISTS (
    SELECT FROM data_key AS k
    WHERE k.kind IN ('service', 'tenant') AND k.state = 'active' AND k.created_at < r.asked_at
      AND (r.tenant = '' OR k.kind = 'tenant' AND k.tenant = r.tenant)
)
RETURNING r.tenant;

-- name: due_tenants
-- The tenants whose key was made before the given time, or before somebody asked for another; none that was made since this look began.
SELECT k.tenant FROM data_key AS k LEFT JOIN key_rotation AS r ON r.tenant = k.tenant
WHERE k.kind = 'tenant' AND k.state = 'active' AND k.created_at < $3
  AND k.created_at < greatest($1, (SELECT asked_at FROM key_rotation WHERE tenant = ''), r.asked_at)
ORDER BY k.tenant
LIMIT $2;

-- name: retired_tenant_keys
-- The tenants' keys that take no new values: all that may still hold some, and those that have held none since before the given time.
SELECT key_id, version, tenant, values_left FROM data_key
WHERE kind = 'tenant' AND state = 'retired' AND (emptied_at IS NULL OR emptied_at <= $1)
ORDER BY retired_at, key_id, version;

-- name: retired_key_for_update
-- One of them, once every transaction that stores a value under it is over; others wait until this one is.
SELECT emptied_at FROM data_key WHERE key_id = $1 AND version = $2 AND state = 'retired' FOR UPDATE;

-- name: note_values_left
-- What was counted.
UPDATE data_key SET values_left = $3::bigint, emptied_at = CASE WHEN $3::bigint = 0 THEN coalesce(emptied_at, $4) END
WHERE key_id = $1 AND version = $2;

-- name: note_values_moved
-- So many of them have gone, in this transaction: who has read one before still opens it, so the key has to stay a while.
UPDATE data_key SET values_left = greatest(values_left - $3::bigint, 0), emptied_at = NULL WHERE key_id = $1 AND version = $2;

-- name: destroy_key
-- A retired key that holds nothing.
UPDATE data_key SET state = 'destroyed', wrapped = NULL, destroyed_at = $3
WHERE key_id = $1 AND version = $2 AND state = 'retired';

-- name: due_subjects
-- A page of the subjects whose key was made before the given time, or before somebody asked for others of all; oldest first, and none that
-- was made since this look began.
SELECT key_id, version, tenant, subject, created_at FROM data_key
WHERE kind = 'subject' AND state = 'active'
  AND created_at < least(greatest($1, (SELECT asked_at FROM key_rotation WHERE tenant = '')), $2)
  AND (created_at, key_id, version) > ($3, $4, $5)
ORDER BY created_at, key_id, version
LIMIT $6;

-- name: due_subjects_of
-- The same of one tenant, whose keys were made before the given time.
SELECT key_id, version, tenant, subject, created_at FROM data_key
WHERE kind = 'subject' AND state = 'active' AND tenant = $1
  AND created_at < least($2::timestamptz, $3::timestamptz)
  AND (created_at, key_id, version) > ($4, $5, $6)
ORDER BY created_at, key_id, version
LIMIT $7;

-- name: subject_keys_for_update
-- The active ones of these keys, locked against another rotation and against their destruction.
SELECT k.key_id, k.version, k.kind, k.tenant, k.subject, k.state, k.wrapped_by, k.wrapped, k.check_value
FROM unnest($1::bytea[], $2::integer[]) AS wanted (key_id, version)
JOIN data_key AS k ON k.key_id = wanted.key_id AND k.version = wanted.version
WHERE k.kind = 'subject' AND k.state = 'active'
ORDER BY k.key_id, k.version
FOR UPDATE OF k;

-- name: retire_subject_keys
-- Their value is sealed under their successors, in this transaction.
UPDATE data_key AS k SET state = 'retired', retired_at = $3, values_left = 0, emptied_at = $3
FROM unnest($1::bytea[], $2::integer[]) AS old (key_id, version)
WHERE k.key_id = old.key_id AND k.version = old.version;

-- name: destroy_emptied_subject_keys
-- A page of the subjects' keys that have held nothing since before the given time.
UPDATE data_key SET state = 'destroyed', wrapped = NULL, destroyed_at = $2
WHERE (key_id, version) IN (
    SELECT key_id, version FROM data_key
    WHERE kind = 'subject' AND state = 'retired' AND emptied_at <= $1
    ORDER BY emptied_at LIMIT $3
    FOR UPDATE SKIP LOCKED
)
RETURNING tenant;

-- name: values_behind
-- How many values are still sealed under a key that has a successor or is due for one, as far as they were counted. Those that have keys of
-- their own are counted up to a hundred thousand, of all and for each request: a look must not take long for a number to show.
SELECT
    (SELECT coalesce(sum(values_left), 0)::bigint FROM data_key WHERE kind = 'tenant' AND state = 'retired')
    + (
        SELECT count(*) FROM (
            SELECT FROM data_key
            WHERE kind = 'subject' AND state = 'active'
              AND created_at < greatest($1, (SELECT asked_at FROM key_rotation WHERE tenant = ''))
            LIMIT 100000
        ) AS due
    )
    + (
        SELECT count(*) FROM key_rotation AS r CROSS JOIN LATERAL (
            SELECT FROM data_key AS k
            WHERE k.kind = 'subject' AND k.state = 'active' AND k.tenant = r.tenant AND k.created_at < r.asked_at
              AND k.created_at >= greatest($1, (SELECT asked_at FROM key_rotation WHERE tenant = ''))
            LIMIT 100000
        ) AS due
    );

-- name: tenant_keys
-- The tenants' keys that still exist, for who looks at them from outside.
SELECT tenant, version, state, created_at, retired_at, values_left, emptied_at FROM data_key
WHERE kind = 'tenant' AND wrapped IS NOT NULL ORDER BY tenant, version;

-- name: subject_keys
-- The keys of single values by tenant: how many are in use, since when the oldest; how many of them are due (made before the given time,
-- or before somebody asked for others); how many were retired and are still there.
SELECT k.tenant,
    count(*) FILTER (WHERE k.state = 'active') AS active,
    min(k.created_at) FILTER (WHERE k.state = 'active') AS oldest_at,
    count(*) FILTER (WHERE k.state = 'active' AND k.created_at < greatest($1, (SELECT asked_at FROM key_rotation WHERE tenant = ''), r.asked_at)) AS due,
    count(*) FILTER (WHERE k.state = 'retired') AS retired
FROM data_key AS k LEFT JOIN key_rotation AS r ON r.tenant = k.tenant
WHERE k.kind = 'subject' AND k.wrapped IS NOT NULL
GROUP BY k.tenant ORDER BY k.tenant;
