-- A tenant has several books, an account has a path and a kind, and a book has a chart that says which paths there may be.
--
-- What the rules read of a book besides its transfers moves its `revision`, and the database sees to that: who decided on what it has in
-- memory compares the number under the book's lock and knows whether that is still true (ADR 21).

ALTER TABLE book
    ADD COLUMN name              text        NOT NULL DEFAULT 'main' CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    ADD COLUMN description       text        CHECK (length(description) BETWEEN 1 AND 500),
    ADD COLUMN backdating        text        NOT NULL DEFAULT 'strict' CHECK (backdating IN ('strict', 'report')),
    ADD COLUMN sealed_until      timestamptz,
    ADD COLUMN quarantined_at    timestamptz,
    ADD COLUMN quarantine_reason text        CHECK (length(quarantine_reason) BETWEEN 1 AND 500),
    ADD COLUMN shard             text        NOT NULL DEFAULT 'default' CHECK (shard ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    ADD CONSTRAINT book_quarantine CHECK ((quarantined_at IS NULL) = (quarantine_reason IS NULL)),
    DROP CONSTRAINT book_tenant_key,
    ADD CONSTRAINT book_name UNIQUE (tenant, name);
COMMENT ON TABLE book IS 'Its row lock, held from the numbering to the commit, makes sequence gap-free and equal to commit order.';
COMMENT ON COLUMN book.name IS 'class: internal';
COMMENT ON COLUMN book.description IS 'class: internal';
COMMENT ON COLUMN book.backdating IS 'class: internal';
COMMENT ON COLUMN book.sealed_until IS 'class: internal';
COMMENT ON COLUMN book.quarantined_at IS 'class: internal';
COMMENT ON COLUMN book.quarantine_reason IS 'class: internal';
COMMENT ON COLUMN book.shard IS 'class: internal';

CREATE FUNCTION book_revises() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END
$$;
CREATE TRIGGER book_revises
BEFORE UPDATE OF description, backdating, sealed_until, quarantined_at, quarantine_reason, shard ON book
FOR EACH ROW EXECUTE FUNCTION book_revises();

-- The order of "C" makes all paths below one a range of the index.
ALTER TABLE account
    ADD COLUMN path      text COLLATE "C",
    ADD COLUMN kind      text,
    ADD COLUMN ceiling   bigint CHECK (ceiling >= 0),
    ADD COLUMN frozen_at timestamptz;
UPDATE account SET kind = CASE normal_side WHEN 'debit' THEN 'asset' ELSE 'liability' END;
ALTER TABLE account
    ALTER COLUMN kind SET NOT NULL,
    ADD CONSTRAINT account_kind CHECK (kind IN ('asset', 'liability', 'equity', 'income', 'expense')),
    -- What has come in and what open holds may still bring in. The totals fit, so the sum does.
    ADD CONSTRAINT account_ceiling CHECK (
        ceiling IS NULL
        OR CASE normal_side
            WHEN 'debit' THEN (debits_posted + debits_pending) - credits_posted
            ELSE (credits_posted + credits_pending) - debits_posted
        END <= ceiling
    );
COMMENT ON COLUMN account.path IS 'class: personal';
COMMENT ON COLUMN account.kind IS 'class: internal';
COMMENT ON COLUMN account.ceiling IS 'class: internal';
COMMENT ON COLUMN account.frozen_at IS 'class: internal';
-- One account at a path, and the range of those below one.
CREATE UNIQUE INDEX account_path ON account (book, path) WHERE path IS NOT NULL;

-- What never changes of an account is looked at once, not as a CHECK with every posting. An account that says no kind (the release before
-- this one does not know it) is of the usual kind of its side.
CREATE FUNCTION account_begins() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.kind IS NULL THEN
        NEW.kind := CASE NEW.normal_side WHEN 'debit' THEN 'asset' ELSE 'liability' END;
    END IF;
    IF NEW.path IS NOT NULL AND (
        length(NEW.path) > 512 OR NEW.path !~ '^[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+){0,15}$' OR NEW.path ~ '[^:]{65}' OR NEW.path ~ '^acc_'
    ) THEN
        RAISE EXCEPTION 'not a path' USING ERRCODE = 'check_violation', CONSTRAINT = 'account_path_form';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER account_begins BEFORE INSERT ON account FOR EACH ROW EXECUTE FUNCTION account_begins();

-- Postings set none of these columns, so they do not pay for it.
CREATE FUNCTION book_is_revised() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE book SET revision = revision + 1 WHERE id = NEW.book;
    RETURN NULL;
END
$$;
CREATE TRIGGER account_revises AFTER UPDATE OF name, metadata, floor, ceiling, closed_at, frozen_at ON account
FOR EACH ROW EXECUTE FUNCTION book_is_revised();

CREATE TABLE chart (
    book       integer     NOT NULL REFERENCES book,
    version    integer     NOT NULL CHECK (version > 0),
    mode       text        NOT NULL CHECK (mode IN ('open', 'strict')),
    rules      jsonb       NOT NULL CHECK (jsonb_typeof(rules) = 'array'),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (book, version)
);
COMMENT ON TABLE chart IS 'A book''s chart of accounts: the last version counts, the others are history. A book without a row takes any path.';
COMMENT ON COLUMN chart.book IS 'class: internal';
COMMENT ON COLUMN chart.version IS 'class: internal';
COMMENT ON COLUMN chart.mode IS 'class: internal';
COMMENT ON COLUMN chart.rules IS 'class: internal';
COMMENT ON COLUMN chart.created_at IS 'class: internal';

CREATE TRIGGER chart_revises AFTER INSERT ON chart FOR EACH ROW EXECUTE FUNCTION book_is_revised();

CREATE VIEW account_state AS
SELECT a.id, b.tenant, a.book, b.name AS book_name, a.name, a.path, a.kind, a.currency, a.normal_side, a.floor, a.ceiling, a.code, a.metadata,
    a.closed_at IS NOT NULL AS closed, a.frozen_at IS NOT NULL AS frozen, a.created_at, a.created_sequence, a.version, b.sequence AS as_of,
    a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted
FROM account AS a JOIN book AS b ON b.id = a.book;
COMMENT ON VIEW account_state IS 'Accounts with their book. Totals count what is held by holds that have expired and were not swept yet: see due_on.';
COMMENT ON COLUMN account_state.id IS 'class: internal';
COMMENT ON COLUMN account_state.tenant IS 'class: internal';
COMMENT ON COLUMN account_state.book IS 'class: internal';
COMMENT ON COLUMN account_state.book_name IS 'class: internal';
COMMENT ON COLUMN account_state.name IS 'class: personal';
COMMENT ON COLUMN account_state.path IS 'class: personal';
COMMENT ON COLUMN account_state.kind IS 'class: internal';
COMMENT ON COLUMN account_state.currency IS 'class: internal';
COMMENT ON COLUMN account_state.normal_side IS 'class: internal';
COMMENT ON COLUMN account_state.floor IS 'class: internal';
COMMENT ON COLUMN account_state.ceiling IS 'class: internal';
COMMENT ON COLUMN account_state.code IS 'class: internal';
COMMENT ON COLUMN account_state.metadata IS 'class: personal';
COMMENT ON COLUMN account_state.closed IS 'class: internal';
COMMENT ON COLUMN account_state.frozen IS 'class: internal';
COMMENT ON COLUMN account_state.created_at IS 'class: internal';
COMMENT ON COLUMN account_state.created_sequence IS 'class: internal';
COMMENT ON COLUMN account_state.version IS 'class: internal';
COMMENT ON COLUMN account_state.as_of IS 'class: internal';
COMMENT ON COLUMN account_state.debits_pending IS 'class: internal';
COMMENT ON COLUMN account_state.debits_posted IS 'class: internal';
COMMENT ON COLUMN account_state.credits_pending IS 'class: internal';
COMMENT ON COLUMN account_state.credits_posted IS 'class: internal';

-- What holds that have expired at an instant and were not swept yet still hold on an account. Open holds that are due are few.
CREATE FUNCTION due_on(account uuid, at timestamptz) RETURNS TABLE (due_debits bigint, due_credits bigint) LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(h.remaining) FILTER (WHERE h.debit_account = account), 0)::bigint,
        coalesce(sum(h.remaining) FILTER (WHERE h.credit_account = account), 0)::bigint
    FROM hold AS h WHERE h.remaining > 0 AND h.expires_at <= at AND (h.debit_account = account OR h.credit_account = account)
$$;

GRANT SELECT, INSERT ON chart TO :service_role;
GRANT SELECT ON account_state TO :service_role;
GRANT UPDATE (description, backdating, sealed_until, quarantined_at, quarantine_reason, shard) ON book TO :service_role;
GRANT UPDATE (name, metadata, floor, ceiling, frozen_at) ON account TO :service_role;
