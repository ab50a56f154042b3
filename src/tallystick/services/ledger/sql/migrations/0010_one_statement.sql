-- A flush is stored by one statement, which has to be able to say "all of it or nothing" of more than its rows (queries.sql, `save`).

-- True, or an error under the name of what does not hold, which undoes the statement. Volatile: it is asked when it is its turn.
CREATE FUNCTION required(holds boolean, what text) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE EXCEPTION '%', what USING ERRCODE = 'check_violation', CONSTRAINT = what;
    END IF;
    RETURN true;
END
$$;
