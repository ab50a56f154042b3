-- The past days (UTC) whose limits a proposed transaction that is dated back broke when it was posted, or would have: what who posts one
-- without a proposal is answered.
ALTER TABLE proposal ADD COLUMN breached_on date[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN proposal.breached_on IS 'class: internal';
GRANT UPDATE (breached_on) ON proposal TO :service_role;

-- The schedule goes through those that something is to be done about in pages.
DROP INDEX proposal_open;
CREATE INDEX proposal_open ON proposal (expires_at, id) WHERE status IN ('pending', 'approved');
