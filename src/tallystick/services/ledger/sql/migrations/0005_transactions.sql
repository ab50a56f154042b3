-- Transactions, holds that grow, transfers that move what there is, and times other than that of recording.

ALTER TABLE transfer
    ADD COLUMN transaction  uuid,
    ADD COLUMN effective_at timestamptz,
    ADD COLUMN asked        bigint,
    DROP CONSTRAINT transfer_kind_check,
    ADD CONSTRAINT transfer_kind_check CHECK (kind IN ('post', 'hold', 'increase', 'capture', 'void', 'expire', 'reverse')),
    DROP CONSTRAINT transfer_target,
    ADD CONSTRAINT transfer_target CHECK ((target IS NOT NULL) = (kind IN ('increase', 'capture', 'void', 'expire', 'reverse'))),
    DROP CONSTRAINT transfer_released,
    -- What an increase takes off its hold is less than nothing: so what is left of a hold is always its amount less what was released.
    ADD CONSTRAINT transfer_released CHECK (
        CASE kind
            WHEN 'capture' THEN released >= amount
            WHEN 'void' THEN released = amount
            WHEN 'expire' THEN released = amount
            WHEN 'increase' THEN released = -amount
            ELSE released = 0
        END
    ),
    DROP CONSTRAINT transfer_expires,
    ADD CONSTRAINT transfer_expires CHECK (expires_at IS NULL OR kind IN ('hold', 'increase')),
    -- Only what is posted can be dated back, and only back: what is held is held now.
    ADD CONSTRAINT transfer_effective CHECK (effective_at IS NULL OR (kind IN ('post', 'reverse') AND effective_at < recorded_at)),
    ADD CONSTRAINT transfer_asked CHECK (asked IS NULL OR (kind IN ('post', 'hold') AND asked >= amount));
COMMENT ON COLUMN transfer.transaction IS 'class: internal';
COMMENT ON COLUMN transfer.effective_at IS 'class: internal';
COMMENT ON COLUMN transfer.asked IS 'class: internal';

-- The columns of a view are its contract: new ones come last.
CREATE OR REPLACE VIEW entry AS
SELECT book, sequence, id AS transfer, 'debit' AS side, debit_account AS account, credit_account AS other, kind, target, amount,
    released, currency, recorded_at, code, dr_version AS version, dr_debits_pending AS debits_pending,
    dr_debits_posted AS debits_posted, dr_credits_pending AS credits_pending, dr_credits_posted AS credits_posted,
    transaction, coalesce(effective_at, recorded_at) AS effective_at, metadata
FROM transfer
UNION ALL
SELECT book, sequence, id, 'credit', credit_account, debit_account, kind, target, amount,
    released, currency, recorded_at, code, cr_version, cr_debits_pending,
    cr_debits_posted, cr_credits_pending, cr_credits_posted,
    transaction, coalesce(effective_at, recorded_at), metadata
FROM transfer;
COMMENT ON COLUMN entry.transaction IS 'class: internal';
COMMENT ON COLUMN entry.effective_at IS 'class: internal';
COMMENT ON COLUMN entry.metadata IS 'class: personal';

CREATE TABLE transaction (
    book         integer     NOT NULL REFERENCES book,
    id           uuid        NOT NULL,
    first        bigint      NOT NULL CHECK (first > 0),
    last         bigint      NOT NULL,
    recorded_at  timestamptz NOT NULL,
    effective_at timestamptz,
    reference    text        CHECK (length(reference) BETWEEN 1 AND 200),
    description  text        CHECK (length(description) BETWEEN 1 AND 500),
    metadata     text        CHECK (jsonb_typeof(metadata::jsonb) = 'object'),
    reverses     uuid,
    exchanges    text        CHECK (jsonb_typeof(exchanges::jsonb) = 'array'),
    CONSTRAINT transaction_transfers CHECK (last - first BETWEEN 0 AND 2999),
    CONSTRAINT transaction_effective CHECK (effective_at < recorded_at),
    PRIMARY KEY (book, id)
);
COMMENT ON TABLE transaction IS 'Append only. One atomic unit of transfers: those of its book with the numbers first to last.';
COMMENT ON COLUMN transaction.book IS 'class: internal';
COMMENT ON COLUMN transaction.id IS 'class: internal';
COMMENT ON COLUMN transaction.first IS 'class: internal';
COMMENT ON COLUMN transaction.last IS 'class: internal';
COMMENT ON COLUMN transaction.recorded_at IS 'class: internal';
COMMENT ON COLUMN transaction.effective_at IS 'class: internal';
COMMENT ON COLUMN transaction.reference IS 'class: personal';
COMMENT ON COLUMN transaction.description IS 'class: personal';
COMMENT ON COLUMN transaction.metadata IS 'class: personal';
COMMENT ON COLUMN transaction.reverses IS 'class: internal';
COMMENT ON COLUMN transaction.exchanges IS 'class: internal';
-- The list, newest first.
CREATE UNIQUE INDEX transaction_first ON transaction (book, first);
-- Found again by what the client calls it.
CREATE INDEX transaction_reference ON transaction (book, reference) WHERE reference IS NOT NULL;
-- Reversed as a whole at most once.
CREATE UNIQUE INDEX transaction_reverses ON transaction (book, reverses) WHERE reverses IS NOT NULL;

-- ---- effective time ------------------------------------------------------------------------------------------------

CREATE TABLE adjustment (
    account  uuid        NOT NULL,
    at       timestamptz NOT NULL,
    sequence bigint      NOT NULL,
    book     integer     NOT NULL,
    debits   bigint      NOT NULL,
    credits  bigint      NOT NULL,
    PRIMARY KEY (account, at, sequence)
);
COMMENT ON TABLE adjustment IS 'What a transfer that is dated back changes: it counts from when it is effective on (a row there) and no longer from when it was recorded (a row there, with the sign turned). A balance by effective time is that by recording and the sum of these up to then.';
COMMENT ON COLUMN adjustment.account IS 'class: internal';
COMMENT ON COLUMN adjustment.at IS 'class: internal';
COMMENT ON COLUMN adjustment.sequence IS 'class: internal';
COMMENT ON COLUMN adjustment.book IS 'class: internal';
COMMENT ON COLUMN adjustment.debits IS 'class: internal';
COMMENT ON COLUMN adjustment.credits IS 'class: internal';

CREATE TABLE adjustment_total (
    account   uuid        NOT NULL,
    span      text        NOT NULL CHECK (span IN ('year', 'day', 'hour')),
    starts_at timestamptz NOT NULL,
    debits    bigint      NOT NULL,
    credits   bigint      NOT NULL,
    PRIMARY KEY (account, span, starts_at)
) WITH (fillfactor = 80);
COMMENT ON TABLE adjustment_total IS 'Sums of adjustment by calendar (UTC), so that a sum up to an instant is that of some years, days and hours and the rest of one hour.';
COMMENT ON COLUMN adjustment_total.account IS 'class: internal';
COMMENT ON COLUMN adjustment_total.span IS 'class: internal';
COMMENT ON COLUMN adjustment_total.starts_at IS 'class: internal';
COMMENT ON COLUMN adjustment_total.debits IS 'class: internal';
COMMENT ON COLUMN adjustment_total.credits IS 'class: internal';

-- The database makes both from the transfers, as their owner: the service can't write them.
CREATE FUNCTION transfer_dated() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM fresh WHERE effective_at IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    INSERT INTO adjustment (account, at, sequence, book, debits, credits)
    SELECT s.account, s.at, d.sequence, d.book, s.debits, s.credits
    FROM fresh AS d
    CROSS JOIN LATERAL (VALUES
        (d.debit_account, d.effective_at, d.amount, 0::bigint), (d.debit_account, d.recorded_at, -d.amount, 0::bigint),
        (d.credit_account, d.effective_at, 0::bigint, d.amount), (d.credit_account, d.recorded_at, 0::bigint, -d.amount)
    ) AS s (account, at, debits, credits)
    WHERE d.effective_at IS NOT NULL;
    INSERT INTO adjustment_total AS t (account, span, starts_at, debits, credits)
    SELECT s.account, p.span, date_trunc(p.span, s.at, 'UTC'), sum(s.debits)::bigint, sum(s.credits)::bigint
    FROM fresh AS d
    CROSS JOIN LATERAL (VALUES
        (d.debit_account, d.effective_at, d.amount, 0::bigint), (d.debit_account, d.recorded_at, -d.amount, 0::bigint),
        (d.credit_account, d.effective_at, 0::bigint, d.amount), (d.credit_account, d.recorded_at, 0::bigint, -d.amount)
    ) AS s (account, at, debits, credits)
    CROSS JOIN (VALUES ('year'), ('day'), ('hour')) AS p (span)
    WHERE d.effective_at IS NOT NULL
    GROUP BY 1, 2, 3
    ON CONFLICT (account, span, starts_at) DO UPDATE SET debits = t.debits + excluded.debits, credits = t.credits + excluded.credits;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_dated AFTER INSERT ON transfer REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION transfer_dated();

-- The last sequence of a book that was recorded up to an instant. Instants rise with sequences, so a binary search over the index by
-- sequence finds it; no index by time has to be kept up for it.
CREATE FUNCTION sequence_at(of_book integer, at timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low    bigint := 0;
    high   bigint;
    middle bigint;
    begun  timestamptz;
    found  timestamptz;
BEGIN
    SELECT b.sequence, b.created_at INTO high, begun FROM book AS b WHERE b.id = of_book;
    IF at < begun THEN
        RETURN 0;
    END IF;
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        SELECT t.recorded_at INTO found FROM transfer AS t WHERE t.book = of_book AND t.sequence = middle;
        IF found <= at THEN low := middle; ELSE high := middle - 1; END IF;
    END LOOP;
    RETURN low;
END
$$;

-- An account's totals right after a sequence of its book: those of its last entry up to there.
CREATE FUNCTION totals_at(of_account uuid, of_book integer, upto bigint)
RETURNS TABLE (version bigint, debits_pending bigint, debits_posted bigint, credits_pending bigint, credits_posted bigint)
LANGUAGE sql STABLE AS $$
    SELECT e.version, e.debits_pending, e.debits_posted, e.credits_pending, e.credits_posted
    FROM (
        (SELECT t.sequence, t.dr_version AS version, t.dr_debits_pending AS debits_pending, t.dr_debits_posted AS debits_posted,
            t.dr_credits_pending AS credits_pending, t.dr_credits_posted AS credits_posted
        FROM transfer AS t WHERE t.debit_account = of_account AND t.book = of_book AND t.sequence <= upto ORDER BY t.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT t.sequence, t.cr_version, t.cr_debits_pending, t.cr_debits_posted, t.cr_credits_pending, t.cr_credits_posted
        FROM transfer AS t WHERE t.credit_account = of_account AND t.book = of_book AND t.sequence <= upto ORDER BY t.sequence DESC LIMIT 1)
    ) AS e
    ORDER BY e.sequence DESC LIMIT 1
$$;

-- What is to be added to an account's posted totals as recorded at an instant, to have them as effective then.
CREATE FUNCTION adjusted_at(of_account uuid, upto timestamptz) RETURNS TABLE (debits bigint, credits bigint) LANGUAGE sql STABLE AS $$
    SELECT coalesce(sum(p.debits), 0)::bigint, coalesce(sum(p.credits), 0)::bigint
    FROM (
        SELECT t.debits, t.credits FROM adjustment_total AS t
        WHERE t.account = of_account AND t.span = 'year' AND t.starts_at < date_trunc('year', upto, 'UTC')
        UNION ALL
        SELECT t.debits, t.credits FROM adjustment_total AS t
        WHERE t.account = of_account AND t.span = 'day'
            AND t.starts_at >= date_trunc('year', upto, 'UTC') AND t.starts_at < date_trunc('day', upto, 'UTC')
        UNION ALL
        SELECT t.debits, t.credits FROM adjustment_total AS t
        WHERE t.account = of_account AND t.span = 'hour'
            AND t.starts_at >= date_trunc('day', upto, 'UTC') AND t.starts_at < date_trunc('hour', upto, 'UTC')
        UNION ALL
        SELECT a.debits, a.credits FROM adjustment AS a
        WHERE a.account = of_account AND a.at >= date_trunc('hour', upto, 'UTC') AND a.at <= upto
    ) AS p
$$;

-- ---- categories ----------------------------------------------------------------------------------------------------

CREATE TABLE category (
    book       integer     NOT NULL REFERENCES book,
    name       text        NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    paths      text[]      NOT NULL,
    categories text[]      NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (book, name)
);
COMMENT ON TABLE category IS 'Which accounts a report adds up: those at paths as the patterns say, and those of other categories.';
COMMENT ON COLUMN category.book IS 'class: internal';
COMMENT ON COLUMN category.name IS 'class: internal';
COMMENT ON COLUMN category.paths IS 'class: internal';
COMMENT ON COLUMN category.categories IS 'class: internal';
COMMENT ON COLUMN category.changed_at IS 'class: internal';

-- ---- the write -----------------------------------------------------------------------------------------------------

-- What `save` is given for each transfer; the release before this one goes on with new_transfer.
CREATE TYPE decided_transfer AS (
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

-- The inserted transfers are numbered without a gap up to the book's sequence; within them each account's entries follow from
-- one another by amount and version; and the last one of each account is what its row now says.
CREATE OR REPLACE FUNCTION transfer_guard() RETURNS trigger LANGUAGE plpgsql AS $$
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

    SELECT format('transfer %s', f.id) INTO bad
    FROM fresh AS f JOIN book AS b ON b.id = f.book
    WHERE coalesce(f.effective_at, f.recorded_at) <= b.sealed_until
    LIMIT 1;
    IF bad IS NOT NULL THEN
        RAISE EXCEPTION 'sealed: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_sealed';
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

    IF EXISTS (SELECT FROM fresh WHERE kind IN ('hold', 'increase', 'capture', 'void', 'expire')) THEN
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
                coalesce(bool_and(d.debit_account = h.debit_account AND d.credit_account = h.credit_account), true) AS same
            FROM transfer AS d WHERE d.book = w.book AND d.target = w.id
        ) AS drawn
        WHERE (h.amount, h.debit_account, h.credit_account, h.captured, h.remaining, drawn.same) IS DISTINCT FROM
            (t.amount + drawn.increased, t.debit_account, t.credit_account, drawn.captured, t.amount - drawn.released, true)
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
    -- A transaction is all of its transfers, and they are nobody else's.
    IF EXISTS (SELECT FROM fresh WHERE transaction IS NOT NULL) THEN
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

GRANT SELECT, INSERT ON transaction TO :service_role;
GRANT SELECT ON adjustment, adjustment_total TO :service_role;
GRANT SELECT, INSERT, DELETE ON category TO :service_role;
GRANT UPDATE (paths, categories, changed_at) ON category TO :service_role;
GRANT UPDATE (amount, expires_at) ON hold TO :service_role;
