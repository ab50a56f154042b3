-- Which account it was about that a proposed transaction could not be posted: what who posts one without a proposal is answered.
ALTER TABLE proposal ADD COLUMN account text;
COMMENT ON COLUMN proposal.account IS 'class: personal';
GRANT UPDATE (account) ON proposal TO :service_role;
