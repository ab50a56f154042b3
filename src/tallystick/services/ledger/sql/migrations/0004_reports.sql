-- What accounts were at a sequence, and which open holds are on an account.

-- Totals of a book's accounts right after a sequence; accounts that had no entry by then are left out. An account whose last entry is not
-- later is as its row says; for the others the last entry up to there is one probe of an index per side.
CREATE FUNCTION account_totals_at(of_book integer, upto bigint) RETURNS TABLE (
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
        FROM transfer AS t WHERE a.sequence > upto AND t.debit_account = a.id AND t.sequence <= upto ORDER BY t.sequence DESC LIMIT 1)
        UNION ALL
        (SELECT t.sequence, t.cr_version, t.cr_debits_pending, t.cr_debits_posted, t.cr_credits_pending, t.cr_credits_posted
        FROM transfer AS t WHERE a.sequence > upto AND t.credit_account = a.id AND t.sequence <= upto ORDER BY t.sequence DESC LIMIT 1)
        ORDER BY 1 DESC LIMIT 1
    ) AS x
    WHERE a.book = of_book AND x.version > 0
$$;

-- The open holds of an account, for what explains its balance: whoever closes a hold takes it out of both. Only open ones are in them, so
-- they stay as small as what is held at the moment.
CREATE INDEX hold_open_debit ON hold (debit_account) WHERE remaining > 0;
CREATE INDEX hold_open_credit ON hold (credit_account) WHERE remaining > 0;
