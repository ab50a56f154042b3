-- name: set_rules
-- Sets a book's approval rules; null for none. A trigger raises its revision.
UPDATE book SET approvals = $2::text::jsonb WHERE id = $1;

-- name: rules
-- A book's approval rules.
SELECT approvals::text FROM book WHERE id = $1;

-- name: insert
-- New proposals.
INSERT INTO proposal (id, book, proposer, content, plan, digest, rules, status, trace, created_at, expires_at)
SELECT id, book, proposer, content, plan, digest, rules::jsonb, 'pending', trace, created_at, expires_at
FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::timestamptz[], $10::timestamptz[])
    AS u (id, book, proposer, content, plan, digest, rules, trace, created_at, expires_at);

-- name: lock
-- Locks a proposal, so that decisions about it are made one at a time.
SELECT id FROM proposal WHERE id = $1 FOR NO KEY UPDATE;

-- name: get
-- One proposal of a tenant with the decisions about it, oldest first.
SELECT p.id, p.book, b.tenant, b.name AS book_name, p.proposer, p.content, p.plan, p.digest, p.rules::text AS rules, p.status, p.reason, p.account, p.breached_on, p.trace,
    p.created_at, p.expires_at, coalesce((
        SELECT json_agg(json_build_object('approver', d.approver, 'decision', d.decision, 'at', d.at, 'signature', d.signature) ORDER BY d.at, d.approver)
        FROM proposal_decision AS d WHERE d.proposal = p.id
    ), '[]')::text AS decisions
FROM proposal AS p JOIN book AS b ON b.id = p.book
WHERE p.id = $1 AND b.tenant = $2;

-- name: page
-- Proposals of the book $1, newest first, before the id $2 (null: from the newest on): those in state $3 at the time $4, or all (null).
SELECT p.id, p.book, b.tenant, b.name AS book_name, p.proposer, p.content, p.plan, p.digest, p.rules::text AS rules, p.status, p.reason, p.account, p.breached_on, p.trace,
    p.created_at, p.expires_at, coalesce((
        SELECT json_agg(json_build_object('approver', d.approver, 'decision', d.decision, 'at', d.at, 'signature', d.signature) ORDER BY d.at, d.approver)
        FROM proposal_decision AS d WHERE d.proposal = p.id
    ), '[]')::text AS decisions
FROM proposal AS p JOIN book AS b ON b.id = p.book
WHERE p.book = $1 AND ($2::uuid IS NULL OR p.id < $2)
    AND ($3::text IS NULL OR CASE WHEN p.status = 'pending' AND p.expires_at <= $4 THEN 'expired' ELSE p.status END = $3)
ORDER BY p.id DESC LIMIT $5;

-- name: decide
-- Stores one approver's decision. Returns nothing if there already is one.
INSERT INTO proposal_decision (proposal, approver, decision, at, signature) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING approver;

-- name: become
-- Moves a proposal from the state $2 to $3, if it is in $2. $4 is why it was refused, $5 the account at fault, $6 the past days on which it broke
-- limits.
UPDATE proposal SET status = $3, reason = $4, account = $5, breached_on = $6 WHERE id = $1 AND status = $2
RETURNING id;

-- name: open
-- Proposals that are approved but not posted, and those that are expired at $1 but not closed, in the order of (expiry, id), after ($2, $3).
SELECT p.id, b.tenant, p.status, p.expires_at FROM proposal AS p JOIN book AS b ON b.id = p.book
WHERE (p.status = 'approved' OR (p.status = 'pending' AND p.expires_at <= $1)) AND (p.expires_at, p.id) > ($2, $3)
ORDER BY p.expires_at, p.id LIMIT $4;
