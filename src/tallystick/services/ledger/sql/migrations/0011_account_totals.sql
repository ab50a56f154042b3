-- An account's totals move by the database alone: by the amounts of the transfers that are inserted, and by nothing else. Until here `save`
-- moved them in the same statement and a guard compared them with the entries; now there is nothing to compare, the service has no right
-- to write them, and a forged write can't bring totals along that agree with its entries (ADR 30).

-- As the accounts' owner. It runs before the guards of the same insert: triggers go by their names.
-- Plans are kept: each account is found by its index, whatever number of them the plan was made for.
CREATE FUNCTION transfer_accounts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    UPDATE account AS a SET version = a.version + x.n, sequence = x.sequence,
        debits_pending = a.debits_pending + x.dp, debits_posted = a.debits_posted + x.d,
        credits_pending = a.credits_pending + x.cp, credits_posted = a.credits_posted + x.c
    FROM (
        SELECT account, count(*) AS n, max(sequence) AS sequence,
            sum(dp)::bigint AS dp, sum(d)::bigint AS d, sum(cp)::bigint AS cp, sum(c)::bigint AS c
        FROM (
            SELECT debit_account AS account, sequence, CASE kind WHEN 'hold' THEN amount ELSE -released END AS dp,
                CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END AS d, 0::bigint AS cp, 0::bigint AS c
            FROM fresh
            UNION ALL
            SELECT credit_account, sequence, 0, 0, CASE kind WHEN 'hold' THEN amount ELSE -released END,
                CASE WHEN kind IN ('post', 'capture', 'reverse') THEN amount ELSE 0 END
            FROM fresh
        ) AS side
        GROUP BY account
    ) AS x
    WHERE a.id = x.account;
    RETURN NULL;
END
$$;
CREATE TRIGGER transfer_accounts AFTER INSERT ON transfer REFERENCING NEW TABLE AS fresh
FOR EACH STATEMENT EXECUTE FUNCTION transfer_accounts();

-- Whoever else changes an account, with whatever rights, leaves its totals as they are; a new one has none.
CREATE FUNCTION account_totals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'totals without their entry: account %', NEW.id
        USING ERRCODE = 'check_violation', CONSTRAINT = 'account_totals_are_entries';
    RETURN NULL;
END
$$;
DROP TRIGGER account_guard ON account;
DROP TRIGGER account_guard_new ON account;
DROP FUNCTION account_guard();
-- AFTER: what goes before takes each row's lock once more.
CREATE TRIGGER account_guard AFTER UPDATE ON account FOR EACH ROW
WHEN (
    pg_trigger_depth() = 0
    AND (NEW.version, NEW.sequence, NEW.debits_pending, NEW.debits_posted, NEW.credits_pending, NEW.credits_posted)
        IS DISTINCT FROM (OLD.version, OLD.sequence, OLD.debits_pending, OLD.debits_posted, OLD.credits_pending, OLD.credits_posted)
)
EXECUTE FUNCTION account_totals();
CREATE TRIGGER account_guard_new AFTER INSERT ON account FOR EACH ROW
WHEN (
    (NEW.version, NEW.sequence, NEW.debits_pending, NEW.debits_posted, NEW.credits_pending, NEW.credits_posted)
        IS DISTINCT FROM (0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint, 0::bigint)
)
EXECUTE FUNCTION account_totals();

REVOKE UPDATE (version, sequence, debits_pending, debits_posted, credits_pending, credits_posted) ON account FROM :service_role;
