-- Totals of a book's accounts as they are known now to have been at an instant: what was recorded by then, and what transfers that were dated back
-- add to that. Accounts with neither are left out.
CREATE FUNCTION account_totals_effective(of_book integer, at timestamptz) RETURNS TABLE (
    id uuid, path text, name text, kind text, currency text, normal_side text, version bigint, debits_posted bigint, credits_posted bigint
) LANGUAGE sql STABLE AS $$
    SELECT a.id, a.path, a.name, a.kind, a.currency, a.normal_side, coalesce(x.version, 0),
        coalesce(x.debits_posted, 0) + j.debits, coalesce(x.credits_posted, 0) + j.credits
    FROM account AS a
    CROSS JOIN (SELECT sequence_at(of_book, at) AS upto) AS s
    LEFT JOIN LATERAL (
        SELECT a.version, a.debits_posted, a.credits_posted WHERE a.sequence <= s.upto
        UNION ALL
        SELECT t.version, t.debits_posted, t.credits_posted FROM totals_at(a.id, of_book, s.upto) AS t WHERE a.sequence > s.upto
    ) AS x ON true
    CROSS JOIN LATERAL adjusted_at(a.id, at) AS j
    WHERE a.book = of_book AND (coalesce(x.version, 0) > 0 OR j.debits <> 0 OR j.credits <> 0)
$$;
