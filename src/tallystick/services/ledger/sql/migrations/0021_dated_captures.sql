-- A book that is restored has its captures effective since they were, so that its balances by effective time are those of the book that it was
-- exported from (decision 27). Whatever moves money can be dated back, and only back; what is held is held now, also in a transaction whose
-- other transfers are dated back.
ALTER TABLE transfer_row
    DROP CONSTRAINT transfer_effective,
    ADD CONSTRAINT transfer_effective CHECK (
        effective_at IS NULL OR (kind IN ('post', 'capture', 'reverse') AND effective_at < recorded_at)
    );

-- As it was (migration 16), but for the last of its checks.
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
    -- A transaction is all of its transfers, and they are nobody else's. What moves money in it is effective since it is.
    IF any_transactions THEN
        SELECT format('transaction %s', n.transaction) INTO bad
        FROM (
            SELECT book, transaction, min(sequence) AS first, max(sequence) AS last, count(*) AS many,
                min(effective_at) AS earliest, max(effective_at) AS latest, count(effective_at) AS dated,
                count(*) FILTER (WHERE kind IN ('post', 'capture', 'reverse')) AS moved
            FROM fresh WHERE transaction IS NOT NULL GROUP BY book, transaction
        ) AS n
        LEFT JOIN LATERAL (SELECT o.* FROM transaction AS o WHERE o.book = n.book AND o.id = n.transaction LIMIT 1) AS x ON true
        WHERE (x.first, x.last) IS DISTINCT FROM (n.first, n.last) OR n.many <> n.last - n.first + 1
            OR (x.effective_at, x.effective_at) IS DISTINCT FROM (n.earliest, n.latest) OR n.dated NOT IN (0, n.moved)
        LIMIT 1;
        IF bad IS NOT NULL THEN
            RAISE EXCEPTION 'transactions: %', bad USING ERRCODE = 'check_violation', CONSTRAINT = 'transfer_transaction';
        END IF;
    END IF;
    RETURN NULL;
END
$$;
