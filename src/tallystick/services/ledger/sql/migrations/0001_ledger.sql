-- The book: accounts, transfers, and the few mutable totals that rest on them.
--
-- A transfer is ONE row that carries both of its entries: what it debits, what it credits, the one amount, and each of the
-- two accounts' totals after it. So a transfer whose entries do not balance can't be written down at all, and a batch costs
-- a third of the rows. The view `entry` shows the two entries.
--
-- Two guards stand behind the rules of model.py, and each is enough alone:
--   * CHECKs on rows: amounts, floors, totals that can't wrap, holds and reversals that can't be overdrawn;
--   * statement triggers: the whole write or nothing. Account totals are moved by the database's own sums (queries.sql,
--     `save`), the running totals come from the model; `transfer_guard` and `account_guard` refuse unless the two agree.
-- They are statement triggers with transition tables because a deferred row trigger would run 3,000 times for 1,000
-- transfers; deferring isn't needed, since `save` is one statement and triggers fire when all of it is done.

-- Every query here finds its rows by an index. Plans are kept for the life of a connection, and one that was made while a table was
-- nearly empty would go on reading all of it.
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$;

CREATE TABLE book (
    id          integer     NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant      text        NOT NULL UNIQUE CHECK (tenant ~ '^[a-z][a-z0-9-]{0,39}$'),
    sequence    bigint      NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    recorded_at timestamptz NOT NULL,
    created_at  timestamptz NOT NULL
) WITH (fillfactor = 10);
COMMENT ON TABLE book IS 'One per tenant. Its row lock, held from the numbering to the commit, makes sequence gap-free and equal to commit order.';
COMMENT ON COLUMN book.id IS 'class: internal';
COMMENT ON COLUMN book.tenant IS 'class: internal';
COMMENT ON COLUMN book.sequence IS 'class: internal';
COMMENT ON COLUMN book.recorded_at IS 'class: internal';
COMMENT ON COLUMN book.created_at IS 'class: internal';

-- Half-empty pages: totals change with every transfer, and room on the page makes that a HOT update (no index is touched).
CREATE TABLE account (
    id               uuid        NOT NULL PRIMARY KEY,
    book             integer     NOT NULL REFERENCES book,
    name             text        NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    currency         text        NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    normal_side      text        NOT NULL CHECK (normal_side IN ('debit', 'credit')),
    floor            bigint      CHECK (floor <= 0 AND floor > -9223372036854775808),
    code             text        CHECK (length(code) BETWEEN 1 AND 64),
    metadata         text        CHECK (jsonb_typeof(metadata::jsonb) = 'object'),
    created_at       timestamptz NOT NULL,
    created_sequence bigint      NOT NULL CHECK (created_sequence >= 0),
    closed_at        timestamptz,
    version          bigint      NOT NULL DEFAULT 0 CHECK (version >= 0),
    sequence         bigint      NOT NULL DEFAULT 0 CHECK (sequence >= 0),
    debits_pending   bigint      NOT NULL DEFAULT 0 CHECK (debits_pending >= 0),
    debits_posted    bigint      NOT NULL DEFAULT 0 CHECK (debits_posted >= 0),
    credits_pending  bigint      NOT NULL DEFAULT 0 CHECK (credits_pending >= 0),
    credits_posted   bigint      NOT NULL DEFAULT 0 CHECK (credits_posted >= 0),
    -- Pending and posted together fit a bigint, so the sums below and those of the model can't wrap.
    CONSTRAINT account_totals_fit CHECK (
        debits_posted <= 9223372036854775807 - debits_pending
        AND credits_posted <= 9223372036854775807 - credits_pending
    ),
    CONSTRAINT account_floor CHECK (
        floor IS NULL
        OR CASE normal_side
            WHEN 'debit' THEN debits_posted - (credits_posted + credits_pending)
            ELSE credits_posted - (debits_posted + debits_pending)
        END >= floor
    )
) WITH (fillfactor = 50);
COMMENT ON TABLE account IS 'Its four totals are the sums of its entries; version counts them, sequence is that of the last.';
COMMENT ON COLUMN account.id IS 'class: internal';
COMMENT ON COLUMN account.book IS 'class: internal';
COMMENT ON COLUMN account.name IS 'class: personal';
COMMENT ON COLUMN account.currency IS 'class: internal';
COMMENT ON COLUMN account.normal_side IS 'class: internal';
COMMENT ON COLUMN account.floor IS 'class: internal';
COMMENT ON COLUMN account.code IS 'class: internal';
COMMENT ON COLUMN account.metadata IS 'class: personal';
COMMENT ON COLUMN account.created_at IS 'class: internal';
COMMENT ON COLUMN account.created_sequence IS 'class: internal';
COMMENT ON COLUMN account.closed_at IS 'class: internal';
COMMENT ON COLUMN account.version IS 'class: internal';
COMMENT ON COLUMN account.sequence IS 'class: internal';
COMMENT ON COLUMN account.debits_pending IS 'class: internal';
COMMENT ON COLUMN account.debits_posted IS 'class: internal';
COMMENT ON COLUMN account.credits_pending IS 'class: internal';
COMMENT ON COLUMN account.credits_posted IS 'class: internal';
-- For the list of a tenant's accounts, newest first.
CREATE INDEX account_book ON account (book, id);

CREATE TABLE transfer (
    book               integer     NOT NULL,
    sequence           bigint      NOT NULL CHECK (sequence > 0),
    id                 uuid        NOT NULL,
    kind               text        NOT NULL CHECK (kind IN ('post', 'hold', 'capture', 'void', 'expire', 'reverse')),
    target             uuid,
    debit_account      uuid        NOT NULL,
    credit_account     uuid        NOT NULL,
    amount             bigint      NOT NULL CHECK (amount > 0),
    released           bigint      NOT NULL DEFAULT 0,
    currency           text        NOT NULL,
    recorded_at        timestamptz NOT NULL,
    expires_at         timestamptz,
    code               text        CHECK (length(code) BETWEEN 1 AND 64),
    metadata           text        CHECK (jsonb_typeof(metadata::jsonb) = 'object'),
    dr_version         bigint      NOT NULL CHECK (dr_version > 0),
    dr_debits_pending  bigint      NOT NULL,
    dr_debits_posted   bigint      NOT NULL,
    dr_credits_pending bigint      NOT NULL,
    dr_credits_posted  bigint      NOT NULL,
    cr_version         bigint      NOT NULL CHECK (cr_version > 0),
    cr_debits_pending  bigint      NOT NULL,
    cr_debits_posted   bigint      NOT NULL,
    cr_credits_pending bigint      NOT NULL,
    cr_credits_posted  bigint      NOT NULL,
    CONSTRAINT transfer_two_accounts CHECK (debit_account <> credit_account),
    CONSTRAINT transfer_target CHECK ((target IS NOT NULL) = (kind IN ('capture', 'void', 'expire', 'reverse'))),
    CONSTRAINT transfer_released CHECK (
        CASE kind
            WHEN 'capture' THEN released >= amount
            WHEN 'void' THEN released = amount
            WHEN 'expire' THEN released = amount
            ELSE released = 0
        END
    ),
    CONSTRAINT transfer_expires CHECK (expires_at IS NULL OR kind = 'hold'),
    -- Ids are unique for ever, in their book: another tenant's ids can be neither taken nor probed.
    PRIMARY KEY (book, id)
);
COMMENT ON TABLE transfer IS 'Append only. One row is one transfer with both its entries; dr_* and cr_* are the two accounts'' totals after it.';
COMMENT ON COLUMN transfer.book IS 'class: internal';
COMMENT ON COLUMN transfer.sequence IS 'class: internal';
COMMENT ON COLUMN transfer.id IS 'class: internal';
COMMENT ON COLUMN transfer.kind IS 'class: internal';
COMMENT ON COLUMN transfer.target IS 'class: internal';
COMMENT ON COLUMN transfer.debit_account IS 'class: internal';
COMMENT ON COLUMN transfer.credit_account IS 'class: internal';
COMMENT ON COLUMN transfer.amount IS 'class: internal';
COMMENT ON COLUMN transfer.released IS 'class: internal';
COMMENT ON COLUMN transfer.currency IS 'class: internal';
COMMENT ON COLUMN transfer.recorded_at IS 'class: internal';
COMMENT ON COLUMN transfer.expires_at IS 'class: internal';
COMMENT ON COLUMN transfer.code IS 'class: internal';
COMMENT ON COLUMN transfer.metadata IS 'class: personal';
COMMENT ON COLUMN transfer.dr_version IS 'class: internal';
COMMENT ON COLUMN transfer.dr_debits_pending IS 'class: internal';
COMMENT ON COLUMN transfer.dr_debits_posted IS 'class: internal';
COMMENT ON COLUMN transfer.dr_credits_pending IS 'class: internal';
COMMENT ON COLUMN transfer.dr_credits_posted IS 'class: internal';
COMMENT ON COLUMN transfer.cr_version IS 'class: internal';
COMMENT ON COLUMN transfer.cr_debits_pending IS 'class: internal';
COMMENT ON COLUMN transfer.cr_debits_posted IS 'class: internal';
COMMENT ON COLUMN transfer.cr_credits_pending IS 'class: internal';
COMMENT ON COLUMN transfer.cr_credits_posted IS 'class: internal';
-- No number twice; the walk of `verify`, and the search of "as of" by time.
CREATE UNIQUE INDEX transfer_sequence ON transfer (book, sequence);
-- An account's entries, newest first, and its balance as of a sequence: one index per side.
CREATE INDEX transfer_debit ON transfer (debit_account, sequence);
CREATE INDEX transfer_credit ON transfer (credit_account, sequence);
-- What was drawn on a hold or reversed of a transfer. Plain posts and holds are not in it.
CREATE INDEX transfer_target_index ON transfer (book, target) WHERE target IS NOT NULL;

CREATE VIEW entry AS
SELECT book, sequence, id AS transfer, 'debit' AS side, debit_account AS account, credit_account AS other, kind, target, amount,
    released, currency, recorded_at, code, dr_version AS version, dr_debits_pending AS debits_pending,
    dr_debits_posted AS debits_posted, dr_credits_pending AS credits_pending, dr_credits_posted AS credits_posted
FROM transfer
UNION ALL
SELECT book, sequence, id, 'credit', credit_account, debit_account, kind, target, amount,
    released, currency, recorded_at, code, cr_version, cr_debits_pending,
    cr_debits_posted, cr_credits_pending, cr_credits_posted
FROM transfer;
COMMENT ON VIEW entry IS 'Each transfer as its two accounts saw it.';
COMMENT ON COLUMN entry.book IS 'class: internal';
COMMENT ON COLUMN entry.sequence IS 'class: internal';
COMMENT ON COLUMN entry.transfer IS 'class: internal';
COMMENT ON COLUMN entry.side IS 'class: internal';
COMMENT ON COLUMN entry.account IS 'class: internal';
COMMENT ON COLUMN entry.other IS 'class: internal';
COMMENT ON COLUMN entry.kind IS 'class: internal';
COMMENT ON COLUMN entry.target IS 'class: internal';
COMMENT ON COLUMN entry.amount IS 'class: internal';
COMMENT ON COLUMN entry.released IS 'class: internal';
COMMENT ON COLUMN entry.currency IS 'class: internal';
COMMENT ON COLUMN entry.recorded_at IS 'class: internal';
COMMENT ON COLUMN entry.code IS 'class: internal';
COMMENT ON COLUMN entry.version IS 'class: internal';
COMMENT ON COLUMN entry.debits_pending IS 'class: internal';
COMMENT ON COLUMN entry.debits_posted IS 'class: internal';
COMMENT ON COLUMN entry.credits_pending IS 'class: internal';
COMMENT ON COLUMN entry.credits_posted IS 'class: internal';

CREATE TABLE hold (
    book           integer     NOT NULL,
    id             uuid        NOT NULL,
    debit_account  uuid        NOT NULL,
    credit_account uuid        NOT NULL,
    amount         bigint      NOT NULL CHECK (amount > 0),
    captured       bigint      NOT NULL CHECK (captured >= 0),
    remaining      bigint      NOT NULL CHECK (remaining >= 0),
    state          text        NOT NULL CHECK (state IN ('held', 'captured', 'voided', 'expired')),
    expires_at     timestamptz,
    CONSTRAINT hold_not_overdrawn CHECK (captured <= amount - remaining),
    CONSTRAINT hold_open CHECK ((state = 'held') = (remaining > 0)),
    PRIMARY KEY (book, id)
) WITH (fillfactor = 80);
COMMENT ON TABLE hold IS 'What is left of each hold. amount = captured + released unused + remaining.';
COMMENT ON COLUMN hold.book IS 'class: internal';
COMMENT ON COLUMN hold.id IS 'class: internal';
COMMENT ON COLUMN hold.debit_account IS 'class: internal';
COMMENT ON COLUMN hold.credit_account IS 'class: internal';
COMMENT ON COLUMN hold.amount IS 'class: internal';
COMMENT ON COLUMN hold.captured IS 'class: internal';
COMMENT ON COLUMN hold.remaining IS 'class: internal';
COMMENT ON COLUMN hold.state IS 'class: internal';
COMMENT ON COLUMN hold.expires_at IS 'class: internal';
-- The sweep, in the order of expiry, and the open holds that are due: closed ones leave the index.
CREATE INDEX hold_due ON hold (expires_at, id) WHERE remaining > 0;

CREATE TABLE reversal (
    book     integer NOT NULL,
    id       uuid    NOT NULL,
    amount   bigint  NOT NULL CHECK (amount > 0),
    reversed bigint  NOT NULL CHECK (reversed > 0),
    CONSTRAINT reversal_not_exceeded CHECK (reversed <= amount),
    PRIMARY KEY (book, id)
) WITH (fillfactor = 80);
COMMENT ON TABLE reversal IS 'How much of a posted transfer was reversed; no row means nothing.';
COMMENT ON COLUMN reversal.book IS 'class: internal';
COMMENT ON COLUMN reversal.id IS 'class: internal';
COMMENT ON COLUMN reversal.amount IS 'class: internal';
COMMENT ON COLUMN reversal.reversed IS 'class: internal';

CREATE TABLE rejection (
    book        integer     NOT NULL,
    id          uuid        NOT NULL,
    digest      bytea       NOT NULL CHECK (length(digest) = 16),
    reason      text        NOT NULL,
    available   bigint,
    required    bigint,
    currency    text,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (book, id)
);
COMMENT ON TABLE rejection IS 'Refused transfer ids, pinned: a repeat gets the same refusal whatever the balances are by then.';
COMMENT ON COLUMN rejection.book IS 'class: internal';
COMMENT ON COLUMN rejection.id IS 'class: internal';
COMMENT ON COLUMN rejection.digest IS 'class: internal';
COMMENT ON COLUMN rejection.reason IS 'class: internal';
COMMENT ON COLUMN rejection.available IS 'class: internal';
COMMENT ON COLUMN rejection.required IS 'class: internal';
COMMENT ON COLUMN rejection.currency IS 'class: internal';
COMMENT ON COLUMN rejection.recorded_at IS 'class: internal';

-- What `save` is given for each transfer. One array of rows is cheaper to send and to read than two dozen arrays.
CREATE TYPE new_transfer AS (
    book               integer,
    sequence           bigint,
    id                 uuid,
    kind               text,
    target             uuid,
    debit_account      uuid,
    credit_account     uuid,
    amount             bigint,
    released           bigint,
    currency           text,
    expires_at         timestamptz,
    code               text,
    metadata           text,
    dr_version         bigint,
    dr_debits_pending  bigint,
    dr_debits_posted   bigint,
    dr_credits_pending bigint,
    dr_credits_posted  bigint,
    cr_version         bigint,
    cr_debits_pending  bigint,
    cr_debits_posted   bigint,
    cr_credits_pending bigint,
    cr_credits_posted  bigint
);

-- In both functions a LATERAL with LIMIT 1 says "one probe of an index for each row" in a way that no statistics can turn into a scan
-- of the whole table: their plans are kept for the life of a session, and the table grows under them.

-- The inserted transfers are numbered without a gap up to the book's sequence; within them each account's entries follow from
-- one another by amount and version; and the last one of each account is what its row now says.
CREATE FUNCTION transfer_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad text;
BEGIN
    SELECT format('book %s is at %s, its new transfers end at %s', n.book, b.sequence, n.last) INTO bad
    FROM (SELECT book, min(sequence) AS first, max(sequence) AS last, count(*) AS many FROM fresh GROUP BY book) AS n
    LEFT JOIN book AS b ON b.id = n.book
    WHERE b.sequence IS DISTINCT FROM n.last OR n.last - n.first + 1 <> n.many
        -- A scalar subquery: EXISTS would be planned as a hash of the whole table.
        OR (n.first > 1 AND (
            SELECT t.sequence FROM transfer AS t WHERE t.book = n.book AND t.sequence = n.first - 1 LIMIT 1
        ) IS NULL)
    LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'sequence: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_sequence_gap';
    END IF;

    SELECT format('account %s, entry %s', e.account, e.version) INTO bad
    FROM (
        SELECT s.*, lead(version) OVER after AS next_version, lead(dp_before) OVER after AS next_dp,
            lead(d_before) OVER after AS next_d, lead(cp_before) OVER after AS next_cp, lead(c_before) OVER after AS next_c
        FROM (
            SELECT book, debit_account AS account, currency, sequence, dr_version AS version, dr_debits_pending AS dp,
                dr_debits_posted AS d, dr_credits_pending AS cp, dr_credits_posted AS c,
                dr_debits_pending - CASE kind WHEN 'hold' THEN amount ELSE -released END AS dp_before,
                dr_debits_posted - CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END AS d_before,
                dr_credits_pending AS cp_before, dr_credits_posted AS c_before
            FROM fresh
            UNION ALL
            SELECT book, credit_account, currency, sequence, cr_version, cr_debits_pending,
                cr_debits_posted, cr_credits_pending, cr_credits_posted,
                cr_debits_pending, cr_debits_posted,
                cr_credits_pending - CASE kind WHEN 'hold' THEN amount ELSE -released END,
                cr_credits_posted - CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END
            FROM fresh
        ) AS s
        WINDOW after AS (PARTITION BY account ORDER BY sequence)
    ) AS e
    LEFT JOIN LATERAL (SELECT o.* FROM account AS o WHERE e.next_version IS NULL AND o.id = e.account LIMIT 1) AS a ON true
    WHERE CASE WHEN e.next_version IS NULL
        THEN (a.book, a.currency, a.sequence, a.version, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
            IS DISTINCT FROM (e.book, e.currency, e.sequence, e.version, e.dp, e.d, e.cp, e.c)
        ELSE (e.next_version, e.next_dp, e.next_d, e.next_cp, e.next_c)
            IS DISTINCT FROM (e.version + 1, e.dp, e.d, e.cp, e.c)
        END
    LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'running totals: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_running_totals';
    END IF;

    IF EXISTS (SELECT FROM fresh WHERE kind IN ('hold', 'capture', 'void', 'expire')) THEN
        SELECT format('hold %s', w.id) INTO bad
        FROM (
            SELECT DISTINCT book, CASE kind WHEN 'hold' THEN id ELSE target END AS id
            FROM fresh WHERE kind IN ('hold', 'capture', 'void', 'expire')
        ) AS w
        LEFT JOIN LATERAL (SELECT o.* FROM hold AS o WHERE o.book = w.book AND o.id = w.id LIMIT 1) AS h ON true
        LEFT JOIN LATERAL (
            SELECT o.* FROM transfer AS o WHERE o.book = w.book AND o.id = w.id AND o.kind = 'hold' LIMIT 1
        ) AS t ON true
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(d.amount) FILTER (WHERE d.kind = 'capture'), 0) AS captured, coalesce(sum(d.released), 0) AS released,
                coalesce(bool_and(d.debit_account = h.debit_account AND d.credit_account = h.credit_account), true) AS same
            FROM transfer AS d WHERE d.book = w.book AND d.target = w.id
        ) AS drawn
        WHERE (h.amount, h.debit_account, h.credit_account, h.captured, h.remaining, drawn.same) IS DISTINCT FROM
            (t.amount, t.debit_account, t.credit_account, drawn.captured, t.amount - drawn.released, true)
        LIMIT 1;
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'holds: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_hold_totals';
        END IF;
    END IF;

    IF EXISTS (SELECT FROM fresh WHERE kind = 'reverse') THEN
        SELECT format('transfer %s', w.id) INTO bad
        FROM (SELECT DISTINCT book, target AS id FROM fresh WHERE kind = 'reverse') AS w
        LEFT JOIN LATERAL (SELECT o.* FROM reversal AS o WHERE o.book = w.book AND o.id = w.id LIMIT 1) AS r ON true
        LEFT JOIN LATERAL (
            SELECT o.* FROM transfer AS o WHERE o.book = w.book AND o.id = w.id AND o.kind IN ('post', 'capture') LIMIT 1
        ) AS t ON true
        CROSS JOIN LATERAL (
            SELECT sum(d.amount) AS reversed,
                bool_and(d.debit_account = t.credit_account AND d.credit_account = t.debit_account) AS opposite
            FROM transfer AS d WHERE d.book = w.book AND d.target = w.id AND d.kind = 'reverse'
        ) AS undone
        WHERE (r.amount, r.reversed, undone.opposite) IS DISTINCT FROM (t.amount, undone.reversed, true)
        LIMIT 1;
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'reversals: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_reversed_totals';
        END IF;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_guard AFTER INSERT ON transfer REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION transfer_guard();

-- An account's totals never move but by a transfer: the one of its sequence must say the same totals.
CREATE FUNCTION account_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    bad text;
BEGIN
    SELECT format('account %s', a.id) INTO bad
    FROM now_is AS a
    LEFT JOIN LATERAL (SELECT o.* FROM transfer AS o WHERE o.book = a.book AND o.sequence = a.sequence LIMIT 1) AS t ON true
    WHERE a.version > 0 AND (
        CASE a.id
            WHEN t.debit_account THEN
                (t.dr_version, t.dr_debits_pending, t.dr_debits_posted, t.dr_credits_pending, t.dr_credits_posted)
            WHEN t.credit_account THEN
                (t.cr_version, t.cr_debits_pending, t.cr_debits_posted, t.cr_credits_pending, t.cr_credits_posted)
        END IS DISTINCT FROM (a.version, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
    ) OR a.version = 0 AND (a.sequence, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted) <> (0, 0, 0, 0, 0)
    LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'totals without their entry: %', bad
            USING ERRCODE = 'check_violation', CONSTRAINT = 'account_totals_are_entries';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER account_guard AFTER UPDATE ON account REFERENCING NEW TABLE AS now_is
FOR EACH STATEMENT EXECUTE FUNCTION account_guard();
CREATE TRIGGER account_guard_new AFTER INSERT ON account REFERENCING NEW TABLE AS now_is
FOR EACH STATEMENT EXECUTE FUNCTION account_guard();

-- The service reads, adds, and moves totals. It can't change or delete what was posted or refused, nor what an account is.
GRANT SELECT, INSERT ON book, account, transfer, hold, reversal, rejection TO :service_role;
GRANT SELECT ON entry TO :service_role;
GRANT UPDATE (sequence, recorded_at) ON book TO :service_role;
GRANT UPDATE (version, sequence, debits_pending, debits_posted, credits_pending, credits_posted, closed_at) ON account TO :service_role;
GRANT UPDATE (captured, remaining, state) ON hold TO :service_role;
GRANT UPDATE (reversed) ON reversal TO :service_role;
