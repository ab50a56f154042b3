-- How a transfer is stored, apart from what it says: what most transfers have alike takes no room, and what is in an index is short. The view
-- `transfer` says it in full (ADR 36).

-- An account's number is how transfers refer to it: half of an id, in each entry and again in its index.
ALTER TABLE account ADD COLUMN number bigint NOT NULL GENERATED ALWAYS AS IDENTITY;
COMMENT ON COLUMN account.number IS 'class: internal';
CREATE UNIQUE INDEX account_number ON account (number);

DROP VIEW entry;
ALTER TABLE transfer RENAME TO transfer_before;
ALTER INDEX transfer_pkey RENAME TO transfer_before_pkey;
ALTER INDEX transfer_sequence RENAME TO transfer_before_sequence;
ALTER INDEX transfer_debit RENAME TO transfer_before_debit;
ALTER INDEX transfer_credit RENAME TO transfer_before_credit;
ALTER INDEX transfer_target_index RENAME TO transfer_before_target_index;

-- The columns are in the order that leaves no gaps between them. Null: no such total, nothing released.
CREATE TABLE transfer_row (
    sequence           bigint      NOT NULL CONSTRAINT transfer_sequence_check CHECK (sequence > 0),
    recorded_at        timestamptz NOT NULL,
    debit_number       bigint      NOT NULL,
    credit_number      bigint      NOT NULL,
    amount             bigint      NOT NULL CONSTRAINT transfer_amount_check CHECK (amount > 0),
    dr_version         bigint      NOT NULL CONSTRAINT transfer_dr_version_check CHECK (dr_version > 0),
    cr_version         bigint      NOT NULL CONSTRAINT transfer_cr_version_check CHECK (cr_version > 0),
    dr_debits_pending  bigint,
    dr_debits_posted   bigint,
    dr_credits_pending bigint,
    dr_credits_posted  bigint,
    cr_debits_pending  bigint,
    cr_debits_posted   bigint,
    cr_credits_pending bigint,
    cr_credits_posted  bigint,
    released           bigint,
    asked              bigint,
    effective_at       timestamptz,
    expires_at         timestamptz,
    book               integer     NOT NULL,
    id                 uuid        NOT NULL,
    kind               text        NOT NULL,
    currency           text        NOT NULL,
    target             uuid,
    transaction        uuid,
    code               text        CONSTRAINT transfer_code_check CHECK (length(code) BETWEEN 1 AND 64),
    metadata           text        CONSTRAINT transfer_metadata_check CHECK (jsonb_typeof(metadata::jsonb) = 'object')
);
INSERT INTO transfer_row
SELECT t.sequence, t.recorded_at, d.number, c.number, t.amount, t.dr_version, t.cr_version,
    nullif(t.dr_debits_pending, 0), nullif(t.dr_debits_posted, 0), nullif(t.dr_credits_pending, 0), nullif(t.dr_credits_posted, 0),
    nullif(t.cr_debits_pending, 0), nullif(t.cr_debits_posted, 0), nullif(t.cr_credits_pending, 0), nullif(t.cr_credits_posted, 0),
    nullif(t.released, 0), t.asked, t.effective_at, t.expires_at, t.book, t.id, t.kind, t.currency, t.target, t.transaction, t.code, t.metadata
FROM transfer_before AS t
LEFT JOIN account AS d ON d.id = t.debit_account
LEFT JOIN account AS c ON c.id = t.credit_account
ORDER BY t.book, t.sequence;
DROP TABLE transfer_before;
ALTER TABLE transfer_row
    ADD CONSTRAINT transfer_kind_check CHECK (kind IN ('post', 'hold', 'increase', 'capture', 'void', 'expire', 'reverse')),
    ADD CONSTRAINT transfer_two_accounts CHECK (debit_number <> credit_number),
    ADD CONSTRAINT transfer_target CHECK ((target IS NOT NULL) = (kind IN ('increase', 'capture', 'void', 'expire', 'reverse'))),
    -- What an increase takes off its hold is less than nothing: so what is left of a hold is always its amount less what was released.
    ADD CONSTRAINT transfer_released CHECK (
        CASE kind
            WHEN 'capture' THEN coalesce(released, 0) >= amount
            WHEN 'void' THEN coalesce(released, 0) = amount
            WHEN 'expire' THEN coalesce(released, 0) = amount
            WHEN 'increase' THEN coalesce(released, 0) = -amount
            ELSE coalesce(released, 0) = 0
        END
    ),
    ADD CONSTRAINT transfer_expires CHECK (expires_at IS NULL OR kind IN ('hold', 'increase')),
    -- Only what is posted can be dated back, and only back: what is held is held now.
    ADD CONSTRAINT transfer_effective CHECK (effective_at IS NULL OR (kind IN ('post', 'reverse') AND effective_at < recorded_at)),
    ADD CONSTRAINT transfer_asked CHECK (asked IS NULL OR (kind IN ('post', 'hold') AND asked >= amount)),
    -- Ids are unique for ever, in their book: another tenant's ids can be neither taken nor probed. Ids rise with time and numbers count up, so
    -- these two indexes grow at their right end, in full pages.
    ADD CONSTRAINT transfer_pkey PRIMARY KEY (book, id) WITH (fillfactor = 100);
COMMENT ON TABLE transfer_row IS 'Append only. One row is one transfer with both its entries, as it is stored; read it as `transfer`.';
COMMENT ON COLUMN transfer_row.book IS 'class: internal';
COMMENT ON COLUMN transfer_row.sequence IS 'class: internal';
COMMENT ON COLUMN transfer_row.id IS 'class: internal';
COMMENT ON COLUMN transfer_row.kind IS 'class: internal';
COMMENT ON COLUMN transfer_row.target IS 'class: internal';
COMMENT ON COLUMN transfer_row.debit_number IS 'class: internal';
COMMENT ON COLUMN transfer_row.credit_number IS 'class: internal';
COMMENT ON COLUMN transfer_row.amount IS 'class: internal';
COMMENT ON COLUMN transfer_row.released IS 'class: internal';
COMMENT ON COLUMN transfer_row.currency IS 'class: internal';
COMMENT ON COLUMN transfer_row.recorded_at IS 'class: internal';
COMMENT ON COLUMN transfer_row.expires_at IS 'class: internal';
COMMENT ON COLUMN transfer_row.code IS 'class: internal';
COMMENT ON COLUMN transfer_row.metadata IS 'class: personal';
COMMENT ON COLUMN transfer_row.dr_version IS 'class: internal';
COMMENT ON COLUMN transfer_row.dr_debits_pending IS 'class: internal';
COMMENT ON COLUMN transfer_row.dr_debits_posted IS 'class: internal';
COMMENT ON COLUMN transfer_row.dr_credits_pending IS 'class: internal';
COMMENT ON COLUMN transfer_row.dr_credits_posted IS 'class: internal';
COMMENT ON COLUMN transfer_row.cr_version IS 'class: internal';
COMMENT ON COLUMN transfer_row.cr_debits_pending IS 'class: internal';
COMMENT ON COLUMN transfer_row.cr_debits_posted IS 'class: internal';
COMMENT ON COLUMN transfer_row.cr_credits_pending IS 'class: internal';
COMMENT ON COLUMN transfer_row.cr_credits_posted IS 'class: internal';
COMMENT ON COLUMN transfer_row.transaction IS 'class: internal';
COMMENT ON COLUMN transfer_row.effective_at IS 'class: internal';
COMMENT ON COLUMN transfer_row.asked IS 'class: internal';
-- No number twice; the walk of `verify`, and the search of "as of" by time.
CREATE UNIQUE INDEX transfer_sequence ON transfer_row (book, sequence) WITH (fillfactor = 100);
-- An account's entries, newest first, and its balance as of a sequence: one index per side.
CREATE INDEX transfer_debit ON transfer_row (debit_number, sequence);
CREATE INDEX transfer_credit ON transfer_row (credit_number, sequence);
-- What was drawn on a hold or reversed of a transfer. Plain posts and holds are not in it.
CREATE INDEX transfer_target_index ON transfer_row (book, target) WHERE target IS NOT NULL;

-- The accounts' ids are looked up only where they are asked for, one probe for each row that is shown: so what is looked for by account is looked
-- for by its number.
CREATE VIEW transfer AS
SELECT t.book, t.sequence, t.id, t.kind, t.target,
    (SELECT a.id FROM account AS a WHERE a.number = t.debit_number) AS debit_account,
    (SELECT a.id FROM account AS a WHERE a.number = t.credit_number) AS credit_account,
    t.amount, coalesce(t.released, 0) AS released, t.currency, t.recorded_at, t.expires_at, t.code, t.metadata,
    t.dr_version, coalesce(t.dr_debits_pending, 0) AS dr_debits_pending, coalesce(t.dr_debits_posted, 0) AS dr_debits_posted,
    coalesce(t.dr_credits_pending, 0) AS dr_credits_pending, coalesce(t.dr_credits_posted, 0) AS dr_credits_posted,
    t.cr_version, coalesce(t.cr_debits_pending, 0) AS cr_debits_pending, coalesce(t.cr_debits_posted, 0) AS cr_debits_posted,
    coalesce(t.cr_credits_pending, 0) AS cr_credits_pending, coalesce(t.cr_credits_posted, 0) AS cr_credits_posted,
    t.transaction, t.effective_at, t.asked, t.debit_number, t.credit_number
FROM transfer_row AS t;
COMMENT ON VIEW transfer IS 'Transfers in full; dr_* and cr_* are the two accounts'' totals after it.';
COMMENT ON COLUMN transfer.book IS 'class: internal';
COMMENT ON COLUMN transfer.sequence IS 'class: internal';
COMMENT ON COLUMN transfer.id IS 'class: internal';
COMMENT ON COLUMN transfer.kind IS 'class: internal';
COMMENT ON COLUMN transfer.target IS 'class: internal';
COMMENT ON COLUMN transfer.debit_number IS 'class: internal';
COMMENT ON COLUMN transfer.credit_number IS 'class: internal';
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
COMMENT ON COLUMN transfer.transaction IS 'class: internal';
COMMENT ON COLUMN transfer.effective_at IS 'class: internal';
COMMENT ON COLUMN transfer.asked IS 'class: internal';
COMMENT ON COLUMN transfer.debit_account IS 'class: internal';
COMMENT ON COLUMN transfer.credit_account IS 'class: internal';

CREATE VIEW entry AS
SELECT book, sequence, id AS transfer, 'debit' AS side, debit_account AS account, credit_account AS other, kind, target, amount,
    released, currency, recorded_at, code, dr_version AS version, dr_debits_pending AS debits_pending,
    dr_debits_posted AS debits_posted, dr_credits_pending AS credits_pending, dr_credits_posted AS credits_posted,
    transaction, coalesce(effective_at, recorded_at) AS effective_at, metadata, debit_number AS account_number
FROM transfer
UNION ALL
SELECT book, sequence, id, 'credit', credit_account, debit_account, kind, target, amount,
    released, currency, recorded_at, code, cr_version, cr_debits_pending,
    cr_debits_posted, cr_credits_pending, cr_credits_posted,
    transaction, coalesce(effective_at, recorded_at), metadata, credit_number
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
COMMENT ON COLUMN entry.transaction IS 'class: internal';
COMMENT ON COLUMN entry.effective_at IS 'class: internal';
COMMENT ON COLUMN entry.metadata IS 'class: personal';
COMMENT ON COLUMN entry.account_number IS 'class: internal';

GRANT SELECT, INSERT ON transfer_row TO :service_role;
GRANT SELECT ON transfer, entry TO :service_role;

-- What `save` is given for each transfer.
DROP TYPE decided_transfer;
CREATE TYPE decided_transfer AS (
    book               integer,
    sequence           bigint,
    id                 uuid,
    kind               text,
    target             uuid,
    debit_number       bigint,
    credit_number      bigint,
    amount             bigint,
    released           bigint,
    currency           text,
    recorded_at        timestamptz,
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
    cr_credits_posted  bigint,
    transaction        uuid,
    effective_at       timestamptz,
    asked              bigint
);
DROP TYPE new_transfer;

-- Never true: the error of an entry that does not follow from the one before it.
DROP FUNCTION unchained(uuid, bigint);
CREATE FUNCTION unchained(of_account bigint, version bigint) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RAISE EXCEPTION 'running totals: account %, after entry %', (SELECT a.id FROM account AS a WHERE a.number = of_account), version
        USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_running_totals';
END
$$;

-- The inserted transfers are numbered without a gap up to the book's sequence, nothing is in a period that is sealed, each account's entries
-- follow from one another and from what the account was, and holds, reversals and transactions are what the transfers say. What a flush
-- has none of costs it nothing.
-- As the accounts' owner, who alone moves their totals. Plans are kept: each account is found by its index, whatever number of them the
-- plan was made for.
CREATE OR REPLACE FUNCTION transfer_guard() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    counted          bigint;
    wrong            uuid;
    bad              text;
    sealed           text;
    any_holds        boolean;
    any_reversals    boolean;
    any_transactions boolean;
BEGIN
    SELECT min(format('book %s is at %s, its new transfers end at %s', n.book, b.sequence, n.last)) FILTER (
            WHERE b.sequence IS DISTINCT FROM n.last OR n.last - n.first + 1 <> n.many
                -- A scalar subquery: EXISTS would be planned as a hash of the whole table.
                OR (n.first > 1 AND (
                    SELECT t.sequence FROM transfer AS t WHERE t.book = n.book AND t.sequence = n.first - 1 LIMIT 1
                ) IS NULL)
        ),
        min(format('book %s', n.book)) FILTER (WHERE n.earliest <= b.sealed_until),
        bool_or(n.any_holds), bool_or(n.any_reversals), bool_or(n.any_transactions)
    INTO bad, sealed, any_holds, any_reversals, any_transactions
    FROM (
        SELECT book, min(sequence) AS first, max(sequence) AS last, count(*) AS many,
            min(coalesce(effective_at, recorded_at)) AS earliest,
            bool_or(kind IN ('hold', 'increase', 'capture', 'void', 'expire')) AS any_holds, bool_or(kind = 'reverse') AS any_reversals,
            bool_or(transaction IS NOT NULL) AS any_transactions
        FROM fresh GROUP BY book
    ) AS n
    LEFT JOIN book AS b ON b.id = n.book;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'sequence: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_sequence_gap';
    END IF;
    IF sealed IS NOT NULL THEN
        RAISE EXCEPTION 'sealed: %', sealed USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_sealed';
    END IF;

    -- An account's new entries follow from one another by version and amount. So what they move is its last entry's totals less what the first
    -- one's were before it, and the account is moved by that; where it then stands has to be what its last entry says. That is one index probe
    -- and one write for each account. Entries of another book or currency, or of no account, are not counted.
    WITH moved AS (
        UPDATE account AS a SET version = a.version + e.nth, sequence = e.sequence,
            debits_pending = a.debits_pending + (e.dp - e.first_dp), debits_posted = a.debits_posted + (e.d - e.first_d),
            credits_pending = a.credits_pending + (e.cp - e.first_cp), credits_posted = a.credits_posted + (e.c - e.first_c)
        FROM (
            SELECT s.*, row_number() OVER after AS nth, lead(version) OVER after AS next_version,
                lead(dp_before) OVER after AS next_dp, lead(d_before) OVER after AS next_d,
                lead(cp_before) OVER after AS next_cp, lead(c_before) OVER after AS next_c,
                first_value(dp_before) OVER after AS first_dp, first_value(d_before) OVER after AS first_d,
                first_value(cp_before) OVER after AS first_cp, first_value(c_before) OVER after AS first_c
            FROM (
                SELECT book, debit_number AS account, currency, sequence, dr_version AS version, coalesce(dr_debits_pending, 0) AS dp,
                    coalesce(dr_debits_posted, 0) AS d, coalesce(dr_credits_pending, 0) AS cp, coalesce(dr_credits_posted, 0) AS c,
                    coalesce(dr_debits_pending, 0) - CASE kind WHEN 'hold' THEN amount ELSE -coalesce(released, 0) END AS dp_before,
                    coalesce(dr_debits_posted, 0) - CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END AS d_before,
                    coalesce(dr_credits_pending, 0) AS cp_before, coalesce(dr_credits_posted, 0) AS c_before
                FROM fresh
                UNION ALL
                SELECT book, credit_number, currency, sequence, cr_version, coalesce(cr_debits_pending, 0),
                    coalesce(cr_debits_posted, 0), coalesce(cr_credits_pending, 0), coalesce(cr_credits_posted, 0),
                    coalesce(cr_debits_pending, 0), coalesce(cr_debits_posted, 0),
                    coalesce(cr_credits_pending, 0) - CASE kind WHEN 'hold' THEN amount ELSE -coalesce(released, 0) END,
                    coalesce(cr_credits_posted, 0) - CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END
                FROM fresh
            ) AS s
            WINDOW after AS (PARTITION BY account, book, currency ORDER BY sequence)
        ) AS e
        WHERE a.number = e.account AND CASE
            WHEN e.next_version IS NULL THEN true
            WHEN (e.next_version, e.next_dp, e.next_d, e.next_cp, e.next_c)
                IS NOT DISTINCT FROM (e.version + 1, e.dp, e.d, e.cp, e.c) THEN false
            ELSE unchained(e.account, e.version)
        END
        RETURNING a.id, e.nth,
            (a.book, a.currency, a.version, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted)
                IS DISTINCT FROM (e.book, e.currency, e.version, e.dp, e.d, e.cp, e.c) AS differs
    )
    SELECT coalesce(sum(nth), 0), (array_agg(id) FILTER (WHERE differs))[1] INTO counted, wrong FROM moved;
    IF wrong IS NOT NULL OR counted <> (SELECT 2 * count(*) FROM fresh) THEN
        RAISE EXCEPTION 'running totals: account %', coalesce(wrong::text, 'unknown')
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_running_totals';
    END IF;

    IF any_holds THEN
        SELECT format('hold %s', w.id) INTO bad
        FROM (
            SELECT DISTINCT book, CASE kind WHEN 'hold' THEN id ELSE target END AS id
            FROM fresh WHERE kind IN ('hold', 'increase', 'capture', 'void', 'expire')
        ) AS w
        LEFT JOIN LATERAL (SELECT o.* FROM hold AS o WHERE o.book = w.book AND o.id = w.id LIMIT 1) AS h ON true
        LEFT JOIN LATERAL (
            SELECT o.* FROM transfer AS o WHERE o.book = w.book AND o.id = w.id AND o.kind = 'hold' LIMIT 1
        ) AS t ON true
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(d.amount) FILTER (WHERE d.kind = 'capture'), 0) AS captured, coalesce(sum(d.released), 0) AS released,
                coalesce(sum(d.amount) FILTER (WHERE d.kind = 'increase'), 0) AS increased,
                coalesce(bool_and(d.debit_number = t.debit_number AND d.credit_number = t.credit_number), true) AS same
            FROM transfer AS d WHERE d.book = w.book AND d.target = w.id
        ) AS drawn
        WHERE (h.amount, h.debit_account, h.credit_account, h.captured, h.remaining, drawn.same) IS DISTINCT FROM
            (t.amount + drawn.increased, t.debit_account, t.credit_account, drawn.captured, t.amount - drawn.released, true)
        LIMIT 1;
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'holds: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_hold_totals';
        END IF;
    END IF;

    IF any_reversals THEN
        SELECT format('transfer %s', w.id) INTO bad
        FROM (SELECT DISTINCT book, target AS id FROM fresh WHERE kind = 'reverse') AS w
        LEFT JOIN LATERAL (SELECT o.* FROM reversal AS o WHERE o.book = w.book AND o.id = w.id LIMIT 1) AS r ON true
        LEFT JOIN LATERAL (
            SELECT o.* FROM transfer AS o WHERE o.book = w.book AND o.id = w.id AND o.kind IN ('post', 'capture') LIMIT 1
        ) AS t ON true
        CROSS JOIN LATERAL (
            SELECT sum(d.amount) AS reversed,
                bool_and(d.debit_number = t.credit_number AND d.credit_number = t.debit_number) AS opposite
            FROM transfer AS d WHERE d.book = w.book AND d.target = w.id AND d.kind = 'reverse'
        ) AS undone
        WHERE (r.amount, r.reversed, undone.opposite) IS DISTINCT FROM (t.amount, undone.reversed, true)
        LIMIT 1;
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'reversals: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_reversed_totals';
        END IF;
    END IF;
    -- A transaction is all of its transfers, and they are nobody else's.
    IF any_transactions THEN
        SELECT format('transaction %s', n.transaction) INTO bad
        FROM (
            SELECT book, transaction, min(sequence) AS first, max(sequence) AS last, count(*) AS many,
                min(effective_at) AS earliest, max(effective_at) AS latest, count(effective_at) AS dated
            FROM fresh WHERE transaction IS NOT NULL GROUP BY book, transaction
        ) AS n
        LEFT JOIN LATERAL (SELECT o.* FROM transaction AS o WHERE o.book = n.book AND o.id = n.transaction LIMIT 1) AS x ON true
        WHERE (x.first, x.last) IS DISTINCT FROM (n.first, n.last) OR n.many <> n.last - n.first + 1
            OR (x.effective_at, x.effective_at) IS DISTINCT FROM (n.earliest, n.latest) OR n.dated NOT IN (0, n.many)
        LIMIT 1;
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'transactions: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_transaction';
        END IF;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_guard AFTER INSERT ON transfer_row REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION transfer_guard();

-- The database makes both tables of adjustments from the transfers, as their owner: the service can't write them.
CREATE OR REPLACE FUNCTION transfer_dated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM fresh WHERE effective_at IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    INSERT INTO adjustment (account, at, sequence, book, debits, credits)
    SELECT s.account, s.at, d.sequence, d.book, s.debits, s.credits
    FROM fresh AS d
    CROSS JOIN LATERAL (SELECT o.id FROM account AS o WHERE o.number = d.debit_number LIMIT 1) AS x
    CROSS JOIN LATERAL (SELECT o.id FROM account AS o WHERE o.number = d.credit_number LIMIT 1) AS y
    CROSS JOIN LATERAL (VALUES
        (x.id, d.effective_at, d.amount, 0::bigint), (x.id, d.recorded_at, -d.amount, 0::bigint),
        (y.id, d.effective_at, 0::bigint, d.amount), (y.id, d.recorded_at, 0::bigint, -d.amount)
    ) AS s (account, at, debits, credits)
    WHERE d.effective_at IS NOT NULL;
    INSERT INTO adjustment_total AS t (account, span, starts_at, debits, credits)
    SELECT s.account, p.span, date_trunc(p.span, s.at, 'UTC'), sum(s.debits)::bigint, sum(s.credits)::bigint
    FROM fresh AS d
    CROSS JOIN LATERAL (SELECT o.id FROM account AS o WHERE o.number = d.debit_number LIMIT 1) AS x
    CROSS JOIN LATERAL (SELECT o.id FROM account AS o WHERE o.number = d.credit_number LIMIT 1) AS y
    CROSS JOIN LATERAL (VALUES
        (x.id, d.effective_at, d.amount, 0::bigint), (x.id, d.recorded_at, -d.amount, 0::bigint),
        (y.id, d.effective_at, 0::bigint, d.amount), (y.id, d.recorded_at, 0::bigint, -d.amount)
    ) AS s (account, at, debits, credits)
    CROSS JOIN (VALUES ('year'), ('day'), ('hour')) AS p (span)
    WHERE d.effective_at IS NOT NULL
    GROUP BY 1, 2, 3
    ON CONFLICT (account, span, starts_at) DO UPDATE SET debits = t.debits + excluded.debits, credits = t.credits + excluded.credits;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_dated AFTER INSERT ON transfer_row REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION transfer_dated();

-- An account's totals right after a sequence of its book: those of its last entry up to there.
CREATE OR REPLACE FUNCTION totals_at(of_account uuid, of_book integer, upto bigint)
RETURNS TABLE (version bigint, debits_pending bigint, debits_posted bigint, credits_pending bigint, credits_posted bigint)
LANGUAGE sql STABLE AS $$
    SELECT e.version, e.debits_pending, e.debits_posted, e.credits_pending, e.credits_posted
    FROM (
        (SELECT t.sequence, t.dr_version AS version, t.dr_debits_pending AS debits_pending, t.dr_debits_posted AS debits_posted,
            t.dr_credits_pending AS credits_pending, t.dr_credits_posted AS credits_posted
        FROM transfer AS t WHERE t.debit_number = (SELECT a.number FROM account AS a WHERE a.id = of_account) AND t.book = of_book AND t.sequence <= upto
        ORDER BY t.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT t.sequence, t.cr_version, t.cr_debits_pending, t.cr_debits_posted, t.cr_credits_pending, t.cr_credits_posted
        FROM transfer AS t WHERE t.credit_number = (SELECT a.number FROM account AS a WHERE a.id = of_account) AND t.book = of_book AND t.sequence <= upto
        ORDER BY t.sequence DESC LIMIT 1)
    ) AS e
    ORDER BY e.sequence DESC LIMIT 1
$$;

-- Totals of a book's accounts right after a sequence; accounts that had no entry by then are left out. An account whose last entry is not
-- later is as its row says; for the others the last entry up to there is one probe of an index per side.
CREATE OR REPLACE FUNCTION account_totals_at(of_book integer, upto bigint) RETURNS TABLE (
    id uuid, path text, name text, kind text, currency text, normal_side text, version bigint,
    debits_pending bigint, debits_posted bigint, credits_pending bigint, credits_posted bigint
) LANGUAGE sql STABLE AS $$
    SELECT a.id, a.path, a.name, a.kind, a.currency, a.normal_side, x.version,
        x.debits_pending, x.debits_posted, x.credits_pending, x.credits_posted
    FROM account AS a
    CROSS JOIN LATERAL (
        SELECT a.sequence, a.version, a.debits_pending, a.debits_posted, a.credits_pending, a.credits_posted WHERE a.sequence <= upto
        UNION ALL
        (SELECT t.sequence, t.dr_version, t.dr_debits_pending, t.dr_debits_posted, t.dr_credits_pending, t.dr_credits_posted
        FROM transfer AS t WHERE a.sequence > upto AND t.debit_number = a.number AND t.sequence <= upto ORDER BY t.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT t.sequence, t.cr_version, t.cr_debits_pending, t.cr_debits_posted, t.cr_credits_pending, t.cr_credits_posted
        FROM transfer AS t WHERE a.sequence > upto AND t.credit_number = a.number AND t.sequence <= upto ORDER BY t.sequence DESC LIMIT 1)
        ORDER BY 1 DESC LIMIT 1
    ) AS x
    WHERE a.book = of_book AND x.version > 0
$$;
