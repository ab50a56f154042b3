-- Data keys get successors by age, or when an operator asks; what an older one sealed is brought to the new one, and then it goes.
-- Where that stands is seen by the keys themselves, so the pass over a column needs no table of its own any more.
DROP TABLE rewrap_progress;

-- Of a key that was retired: how many values were still sealed under it when they were counted last, and since when none is.
ALTER TABLE data_key
    ADD COLUMN values_left bigint CHECK (values_left >= 0),
    ADD COLUMN emptied_at timestamptz,
    ADD CONSTRAINT data_key_active_is_in_use CHECK (state <> 'active' OR num_nonnulls(values_left, emptied_at) = 0);
COMMENT ON COLUMN data_key.values_left IS 'class: internal';
COMMENT ON COLUMN data_key.emptied_at IS 'class: internal';
GRANT UPDATE (values_left, emptied_at) ON data_key TO :service_role;

-- What is due next, of all and of a tenant, and what was retired.
CREATE INDEX data_key_subject_age ON data_key (created_at, key_id, version) WHERE kind = 'subject' AND state = 'active';
CREATE INDEX data_key_subject_age_of ON data_key (tenant, created_at, key_id, version) WHERE kind = 'subject' AND state = 'active';
CREATE INDEX data_key_retired ON data_key (kind, emptied_at) WHERE state = 'retired';

-- Operators who don't want to wait for the age: keys of a tenant (of all, and the service's own, where it is '') that are older than this.
-- The row goes when there is none left.
CREATE TABLE key_rotation (
    tenant   text        PRIMARY KEY,
    asked_at timestamptz NOT NULL
);
COMMENT ON TABLE key_rotation IS 'Rotations that were asked for and are not done yet.';
COMMENT ON COLUMN key_rotation.tenant IS 'class: internal';
COMMENT ON COLUMN key_rotation.asked_at IS 'class: internal';
GRANT SELECT, INSERT, UPDATE, DELETE ON key_rotation TO :service_role;

-- For columns with values under tenants' keys: nothing is stored under a key that was destroyed, by whoever had it in memory for however
-- long. The lock is held until the value is stored, and who destroys a key asks for it first: what he counts then is all there is.
CREATE FUNCTION sealed_under_living_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    sealed bytea;
BEGIN
    EXECUTE format('SELECT ($1).%I', TG_ARGV[0]) INTO sealed USING NEW;
    -- The header: 0x54 | format 1 | algorithm 1 | key id 8 | key version 2. What begins with something else is not sealed.
    IF substring(sealed FROM 1 FOR 3) = '\x540101' THEN
        PERFORM FROM data_key
        WHERE key_id = substring(sealed FROM 4 FOR 8)
          AND version = get_byte(sealed, 11) * 256 + get_byte(sealed, 12)
          AND state <> 'destroyed'
        FOR KEY SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the key of %.% was destroyed', TG_TABLE_NAME, TG_ARGV[0]
                USING ERRCODE = 'check_violation', CONSTRAINT = 'sealed_under_living_key';
        END IF;
    END IF;
    RETURN NULL;
END $$;
