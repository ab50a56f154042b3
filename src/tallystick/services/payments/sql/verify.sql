-- What must hold in payments. Each query returns the faults it finds as text, and no row if all is well.

-- name: payments_come_to_rest
-- No unfinished payment is without a time to resume it. An authorized one is unfinished: it expires.
SELECT format('payment %s is %s and nobody will go on with it', id, status) AS fault
FROM payment
WHERE resume_at IS NULL AND status IN ('received', 'authorized', 'captured')
LIMIT 20;

-- name: refunds_come_to_rest
-- No unfinished refund is without a time to resume it.
SELECT format('refund %s is %s and nobody will go on with it', id, status) AS fault
FROM refund
WHERE resume_at IS NULL AND status = 'pending'
LIMIT 20;

-- name: captured_money_settles
-- What a card was charged reaches its payee. If the ledger has refused to settle for hours (all attempts up to the hourly ones), a
-- person is needed.
SELECT format('payment %s is captured, and was not settled in %s tries', id, attempts) AS fault
FROM payment
WHERE status = 'captured' AND attempts >= 8
LIMIT 20;

-- name: refused_refunds_are_restored
-- If the acquirer refuses a refund, its amount is posted back. If the ledger has refused that for hours, a person is needed.
SELECT format('refund %s was refused, and its amount was not posted back in %s tries', id, attempts) AS fault
FROM refund
WHERE status = 'pending' AND failure_code IS NOT NULL AND attempts >= 8
LIMIT 20;

-- name: refunds_sum_up
-- A payment's refunded and reserved amounts are the sums of its refunds, and never exceed what was captured.
SELECT format('payment %s: refunded %s and %s under way, refunds say %s and %s', p.id, p.refunded, p.refunding, r.done, r.open) AS fault
FROM payment AS p
LEFT JOIN (
    SELECT payment, coalesce(sum(amount) FILTER (WHERE status = 'succeeded'), 0) AS done,
        coalesce(sum(amount) FILTER (WHERE status = 'pending'), 0) AS open
    FROM refund GROUP BY payment
) AS r ON r.payment = p.id
WHERE p.refunded <> coalesce(r.done, 0) OR p.refunding <> coalesce(r.open, 0) OR p.refunded + p.refunding > p.captured
LIMIT 20;

-- name: disputes_are_marked
-- A payment is marked as disputed exactly if a dispute of it is stored.
SELECT format('payment %s: marked is %s', p.id, p.disputed) AS fault
FROM payment AS p WHERE p.disputed <> EXISTS (SELECT FROM dispute AS d WHERE d.payment = p.id)
LIMIT 20;

-- name: answers_are_not_owed
-- Once a payment or a refund has come to rest, no request still waits for its answer.
SELECT format('%s has come to rest, and the request %s of client %s has no answer', resource, route, client_id) AS fault
FROM idempotency
WHERE status IS NULL AND (
    EXISTS (SELECT FROM payment AS p WHERE p.id = resource AND (p.resume_at IS NULL OR p.resume_at = p.expires_at))
    OR EXISTS (SELECT FROM refund AS r WHERE r.id = resource AND r.resume_at IS NULL)
)
LIMIT 20;
