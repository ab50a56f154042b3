-- name: in_flight
-- Open holds on transit accounts that were recorded before $3, in the order of (account, hold), after ($1, $2). They are money that is leaving a book
-- that does not yet know whether it arrived.
SELECT b.tenant, b.name, h.book, h.id, a.id AS transit
FROM account AS a
JOIN book AS b ON b.id = a.book
CROSS JOIN LATERAL (
    SELECT o.book, o.id FROM hold AS o WHERE o.credit_account = a.id AND o.remaining > 0 AND o.expires_at IS NULL
) AS h
CROSS JOIN LATERAL (SELECT o.recorded_at FROM transfer AS o WHERE o.book = h.book AND o.id = h.id LIMIT 1) AS t
WHERE a.path >= 'transit:out:' AND a.path < 'transit:out;' AND (a.id, h.id) > ($1, $2) AND t.recorded_at < $3
ORDER BY a.id, h.id LIMIT $4;

-- name: endings
-- The transfers on a hold (captures, voids and the like), in order.
SELECT d.kind, d.code, d.metadata FROM transfer AS d WHERE d.book = $1 AND d.target = $2 ORDER BY d.sequence;

-- name: in_transit
-- What went through each transit account, and what is held for it. Its path says the direction and the other book. $1: the tenant, or null for all.
SELECT b.tenant, b.name AS book, split_part(a.path, ':', 3) AS other, split_part(a.path, ':', 2) AS way, a.currency,
    CASE a.normal_side WHEN 'credit' THEN a.credits_posted - a.debits_posted ELSE a.debits_posted - a.credits_posted END AS posted,
    CASE a.normal_side WHEN 'credit' THEN a.credits_pending ELSE a.debits_pending END AS pending
FROM account AS a JOIN book AS b ON b.id = a.book
WHERE a.path >= 'transit:' AND a.path < 'transit;' AND ($1::text IS NULL OR b.tenant = $1)
ORDER BY b.tenant, b.name, a.path;
