-- name: decisions
-- The decisions that were already made under these ids.
SELECT id, tenant, payment, amount, currency, decision, score, reasons FROM decision WHERE id = ANY($1::uuid[]);

-- name: decide
-- Stores decisions that nobody has made before, and the facts that tell of them, as a transaction of its own. If one was made before
-- it is refused as a whole (decision_pkey): then `insert_decisions` sorts out which are new.
WITH stored AS (
    INSERT INTO decision (id, tenant, client_id, payment, amount, currency, decision, score, reasons, created_at)
    SELECT id, tenant, client_id, payment, amount, currency, decision, score, string_to_array(reasons, ' '), $10
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::int[], $9::text[])
        AS d (id, tenant, client_id, payment, amount, currency, decision, score, reasons)
)
INSERT INTO outbox (id, type, fact)
SELECT id, type, fact FROM unnest($11::uuid[], $12::text[], $13::bytea[]) WITH ORDINALITY AS f (id, type, fact, place)
ORDER BY place;

-- name: insert_decisions
-- Stores decisions; an id that was decided before is left as it is and not returned.
INSERT INTO decision (id, tenant, client_id, payment, amount, currency, decision, score, reasons, created_at)
SELECT id, tenant, client_id, payment, amount, currency, decision, score, string_to_array(reasons, ' '), $10
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::int[], $9::text[])
    AS d (id, tenant, client_id, payment, amount, currency, decision, score, reasons)
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: list_version
-- Whether the lists have changed since they were read.
SELECT version FROM list_version;

-- name: lists_changed
-- Counts a change; changes take turns on this row, so that a version is never seen before what it stands for.
UPDATE list_version SET version = version + 1;

-- name: tenant_entries
-- What is on one tenant's lists.
SELECT tenant, kind, value, outcome, note FROM list_entry WHERE tenant = $1 ORDER BY kind, value;

-- name: list_entries
-- Everything on any tenant's lists: they are small, and each replica holds them in memory.
SELECT tenant, kind, value, outcome, note FROM list_entry ORDER BY tenant, kind, value;

-- name: put_list_entry
-- Adds a value to a tenant's list, or changes what the list says of it.
INSERT INTO list_entry (tenant, kind, value, outcome, note, created_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (tenant, kind, value) DO UPDATE SET outcome = excluded.outcome, note = excluded.note;

-- name: delete_list_entry
-- Takes a value off a tenant's list.
DELETE FROM list_entry WHERE tenant = $1 AND kind = $2 AND value = $3 RETURNING value;
