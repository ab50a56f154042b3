-- name: open_payments
-- T1 of many requests in one statement, and so in one round trip and one commit. Claims the idempotency keys that are free (sorted,
-- as chassis.idempotency does), and stores their payments as received and their facts. Returns the places (1..n) of those claimed.
WITH asked AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $7::uuid[], $8::bigint[],
                         $9::text[], $10::text[], $11::uuid[], $12::uuid[], $13::uuid[], $14::text[], $15::text[], $16::text[],
                         $17::text[], $18::text[], $19::text[], $20::timestamptz[], $21::timestamptz[], $22::bigint[],
                         $23::uuid[], $24::text[], $25::bytea[])
        WITH ORDINALITY AS a (tenant, client_id, route, key, digest, fields, id, amount, currency, token, source, destination,
                              clearing, capture, card, description, reference, metadata, trace, at, resume_at, worker, receipt,
                              type, fact, place)
), taken AS (
    INSERT INTO idempotency (tenant, client_id, route, key, digest, fields, resource)
    SELECT tenant, client_id, route, key, digest, fields, id FROM asked
    ORDER BY tenant, client_id, route, key
    ON CONFLICT DO NOTHING
    RETURNING resource
), fresh AS (
    SELECT asked.* FROM asked JOIN taken ON taken.resource = asked.id
), stored AS (
    INSERT INTO payment (id, tenant, client_id, status, amount, currency, token, source, destination, clearing, capture, card,
                         description, reference, metadata, waiting_route, waiting_key, waiting_client, receipt, trace,
                         created_at, updated_at, resume_at, worker)
    SELECT id, tenant, client_id, 'received', amount, currency, token, source, destination, clearing, capture, card,
           description, reference, metadata, route, key, client_id, receipt, trace, at, at, resume_at, worker
    FROM fresh
), told AS (
    INSERT INTO outbox (id, type, fact) SELECT receipt, type, fact FROM fresh ORDER BY place
)
SELECT place FROM fresh;

-- name: save_payments
-- Saves payments after a step, each only if nobody changed it since it was read. If two workers bring the same payment in one batch,
-- only one is saved. Each saved payment comes with the answer to its waiting request (an answer already stored stays) and its fact, if
-- there are any. As a statement of its own it is T2. Returns the places (1..n) of those saved.
WITH asked AS (
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[], $8::int[],
                         $9::text[], $10::bool[], $11::bool[], $12::text[], $13::text[], $14::bigint[], $15::text[],
                         $16::text[], $17::text[], $18::bool[], $19::text[], $20::text[], $21::text[], $22::uuid[],
                         $23::timestamptz[], $24::timestamptz[], $25::timestamptz[], $26::bigint[], $27::int[], $28::text[],
                         $29::text[], $30::text[], $31::text[], $32::smallint[], $33::bytea[], $34::uuid[], $35::text[],
                         $36::bytea[])
        WITH ORDINALITY AS a (id, version, status, captured, refunded, refunding, risk_decision, risk_score, risk_reasons,
                              held, released, acquirer_id, intent, intent_amount, decline_code, decline_text, declined_by,
                              disputed, waiting_route, waiting_key, waiting_client, receipt, updated_at, expires_at,
                              resume_at, worker, attempts, tenant, client_id, route, key, answer_status, answer, fact_id,
                              fact_type, fact, place)
), saved AS (
    UPDATE payment
    SET status = p.status, captured = p.captured, refunded = p.refunded, refunding = p.refunding,
        risk_decision = p.risk_decision, risk_score = p.risk_score, risk_reasons = p.risk_reasons, held = p.held,
        released = p.released, acquirer_id = p.acquirer_id, intent = p.intent, intent_amount = p.intent_amount,
        decline_code = p.decline_code, decline_text = p.decline_text, declined_by = p.declined_by, disputed = p.disputed,
        waiting_route = p.waiting_route, waiting_key = p.waiting_key, waiting_client = p.waiting_client,
        receipt = p.receipt, updated_at = p.updated_at, expires_at = p.expires_at, resume_at = p.resume_at,
        worker = p.worker, attempts = p.attempts, version = payment.version + 1
    FROM asked AS p
    WHERE payment.id = p.id AND payment.version = p.version
    RETURNING p.place
), kept AS (
    SELECT asked.* FROM asked JOIN saved USING (place)
), answered AS (
    UPDATE idempotency AS i SET status = k.answer_status, body = k.answer
    FROM kept AS k
    WHERE k.answer IS NOT NULL AND i.tenant = k.tenant AND i.client_id = k.client_id AND i.route = k.route AND i.key = k.key
      AND i.status IS NULL
), told AS (
    INSERT INTO outbox (id, type, fact) SELECT fact_id, fact_type, fact FROM kept WHERE fact_id IS NOT NULL ORDER BY place
)
SELECT place FROM saved;

-- name: payment
-- One payment of a tenant.
SELECT * FROM payment WHERE id = $1 AND tenant = $2;

-- name: payment_for_update
-- One payment of a tenant, locked until the transaction ends.
SELECT * FROM payment WHERE id = $1 AND tenant = $2 FOR UPDATE;

-- name: payment_by_id
-- One payment by id alone, where the tenant is already established (by a refund of it, or by the worker).
SELECT * FROM payment WHERE id = $1;

-- name: payments
-- A page of a tenant's payments, newest first, before the cursor.
SELECT * FROM payment
WHERE tenant = $1 AND ($2::uuid IS NULL OR id < $2) AND ($3::text IS NULL OR status = $3)
ORDER BY tenant, id DESC
LIMIT $4;

-- name: payments_by_reference
-- The same of the payments with one reference ($5).
SELECT * FROM payment
WHERE tenant = $1 AND reference = $5 AND ($2::uuid IS NULL OR id < $2) AND ($3::text IS NULL OR status = $3)
ORDER BY tenant, reference, id DESC
LIMIT $4;

-- name: workers
-- The processes that hold leases on payments or refunds, ending between the two times.
SELECT worker FROM payment WHERE resume_at > $1 AND resume_at <= $2 AND worker IS NOT NULL
UNION
SELECT worker FROM refund WHERE resume_at > $1 AND resume_at <= $2 AND worker IS NOT NULL;

-- name: take_up_payments
-- Takes up payments that are due and those leased to dead processes ($5), and leases them to the process $4. Nobody else gets them
-- until that lease ends. The new version keeps their previous worker from saving.
UPDATE payment SET resume_at = $2, worker = $4, version = version + 1
WHERE id IN (
    SELECT id FROM payment WHERE resume_at <= $2 AND (resume_at <= $1 OR worker = ANY ($5::bigint[]))
    ORDER BY resume_at LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING *;

-- name: insert_refund
-- A new refund. Its payment is locked, and has the amount reserved in `refunding`.
INSERT INTO refund (id, payment, tenant, client_id, status, amount, currency, reason, by_card, waiting_route, waiting_key,
                    waiting_client, receipt, trace, created_at, updated_at, resume_at, worker)
VALUES ($1, $2, $3, $4, 'pending', $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $14, $15, $16);

-- name: save_refund
-- Saves a refund after a step, if nobody changed it since it was read.
UPDATE refund
SET status = $3, reversed = $4, restored = $5, failure_code = $6, failure_text = $7, failed_by = $8, waiting_route = $9,
    waiting_key = $10, waiting_client = $11, receipt = $12, updated_at = $13, resume_at = $14,
    worker = $15, attempts = $16, suspended = $17, returned = $18, version = version + 1
WHERE id = $1 AND version = $2
RETURNING id;

-- name: settle_refund
-- Releases the amount that a refund reserved on its payment. If the refund succeeded ($3), the amount counts as refunded.
UPDATE payment
SET refunding = refunding - $2, refunded = refunded + CASE WHEN $3::bool THEN $2 ELSE 0 END, updated_at = $4,
    version = version + 1
WHERE id = $1
RETURNING id;

-- name: refund
-- One refund of a tenant.
SELECT * FROM refund WHERE id = $1 AND tenant = $2;

-- name: restored_payment
-- A payment, if the amount of a refused refund of it was posted back, to the payee or to suspense.
SELECT * FROM payment AS p WHERE p.id = $1 AND EXISTS (SELECT FROM refund WHERE payment = p.id AND (restored OR suspended));

-- name: take_up_refunds
-- Takes up refunds that are due or leased to dead processes, as `take_up_payments` does.
UPDATE refund SET resume_at = $2, worker = $4, version = version + 1
WHERE id IN (
    SELECT id FROM refund WHERE resume_at <= $2 AND (resume_at <= $1 OR worker = ANY ($5::bigint[]))
    ORDER BY resume_at LIMIT $3 FOR UPDATE SKIP LOCKED
)
RETURNING *;

-- name: is_clearing
-- Whether an account is stored as one that represents the acquirer.
SELECT EXISTS (SELECT FROM clearing WHERE account = $1);

-- name: insert_clearing
-- Records a client that takes card payments, before the ledger is asked to open the account. An existing row stays: its account
-- may be from an earlier release, when account ids were not derived from their place.
INSERT INTO clearing (tenant, currency, account, client_id) VALUES ($1, $2, $3, $4) ON CONFLICT (tenant, currency) DO NOTHING;

-- name: any_card_client
-- A client that takes card payments, always the same one.
SELECT tenant, client_id FROM clearing ORDER BY tenant, currency LIMIT 1;

-- name: dispute_cursor
-- How far an acquirer's disputes have been read.
SELECT position FROM dispute_cursor WHERE acquirer = $1;

-- name: move_dispute_cursor
-- Moves the cursor forward, never back.
INSERT INTO dispute_cursor (acquirer, position) VALUES ($1, $2)
ON CONFLICT (acquirer) DO UPDATE SET position = greatest(dispute_cursor.position, excluded.position);

-- name: is_worked_on
-- Whether somebody works on a payment now. The row lock keeps anybody from starting to until the transaction ends.
SELECT worker IS NOT NULL AND resume_at > $2 FROM payment WHERE id = $1 FOR UPDATE;

-- name: insert_dispute
-- Stores a new dispute of an existing payment. Returns nothing if the dispute is already known.
INSERT INTO dispute (id, payment, created_at) SELECT $1, p.id, $3 FROM payment AS p WHERE p.id = $2
ON CONFLICT (id) DO NOTHING RETURNING id;

-- name: mark_disputed
-- Marks a payment as disputed.
UPDATE payment SET disputed = true, updated_at = $2, version = version + 1 WHERE id = $1 RETURNING *;
