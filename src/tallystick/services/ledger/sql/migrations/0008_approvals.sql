-- Maker-checker: a book's rules say which transactions need approvals; a transaction that does waits as a proposal until it has them.

ALTER TABLE book ADD COLUMN approvals jsonb CHECK (jsonb_typeof(approvals) = 'array');
COMMENT ON COLUMN book.approvals IS 'class: internal';
-- The rules are read with the book, so a change of them is a revision of it.
DROP TRIGGER book_revises ON book;
CREATE TRIGGER book_revises
BEFORE UPDATE OF description, backdating, sealed_until, quarantined_at, quarantine_reason, shard, approvals ON book
FOR EACH ROW EXECUTE FUNCTION book_revises();

CREATE TABLE proposal (
    id         uuid        NOT NULL PRIMARY KEY,
    book       integer     NOT NULL REFERENCES book,
    proposer   text        NOT NULL,
    content    text        NOT NULL CHECK (jsonb_typeof(content::jsonb) = 'object'),
    plan       text        NOT NULL,
    digest     text        NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    rules      jsonb       NOT NULL CHECK (jsonb_typeof(rules) = 'array'),
    status     text        NOT NULL CHECK (status IN ('pending', 'approved', 'posted', 'refused', 'rejected', 'expired')),
    reason     text,
    trace      text,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > created_at),
    CONSTRAINT proposal_reason CHECK ((status = 'refused') = (reason IS NOT NULL))
) WITH (fillfactor = 90);
COMMENT ON TABLE proposal IS 'Transactions that need approvals: what was asked for, word for word, what it would post, and what became of it.';
COMMENT ON COLUMN proposal.id IS 'class: internal';
COMMENT ON COLUMN proposal.book IS 'class: internal';
COMMENT ON COLUMN proposal.proposer IS 'class: internal';
COMMENT ON COLUMN proposal.content IS 'class: personal';
COMMENT ON COLUMN proposal.plan IS 'class: personal';
COMMENT ON COLUMN proposal.digest IS 'class: internal';
COMMENT ON COLUMN proposal.rules IS 'class: internal';
COMMENT ON COLUMN proposal.status IS 'class: internal';
COMMENT ON COLUMN proposal.reason IS 'class: internal';
COMMENT ON COLUMN proposal.trace IS 'class: internal';
COMMENT ON COLUMN proposal.created_at IS 'class: internal';
COMMENT ON COLUMN proposal.expires_at IS 'class: internal';
-- The list of a book's proposals, newest first.
CREATE INDEX proposal_list ON proposal (book, id);
-- Those that something is still to be done about, for the schedule. The others leave it.
CREATE INDEX proposal_open ON proposal (expires_at) WHERE status IN ('pending', 'approved');

CREATE TABLE proposal_decision (
    proposal  uuid        NOT NULL REFERENCES proposal,
    approver  text        NOT NULL,
    decision  text        NOT NULL CHECK (decision IN ('approve', 'reject')),
    at        timestamptz NOT NULL,
    signature text        NOT NULL CHECK (length(signature) <= 4096),
    PRIMARY KEY (proposal, approver)
);
COMMENT ON TABLE proposal_decision IS 'Who approved or rejected, with the signature of it by the approver''s own key. One decision each.';
COMMENT ON COLUMN proposal_decision.proposal IS 'class: internal';
COMMENT ON COLUMN proposal_decision.approver IS 'class: internal';
COMMENT ON COLUMN proposal_decision.decision IS 'class: internal';
COMMENT ON COLUMN proposal_decision.at IS 'class: internal';
COMMENT ON COLUMN proposal_decision.signature IS 'class: internal';

GRANT UPDATE (approvals) ON book TO :service_role;
GRANT SELECT, INSERT ON proposal, proposal_decision TO :service_role;
-- What was proposed and decided never changes; only what became of it is noted.
GRANT UPDATE (status, reason) ON proposal TO :service_role;
