-- The log: commitments in the order they came, the tiles of their Merkle tree, its head, and what was signed of it.

CREATE TABLE entry (
    index   bigint NOT NULL PRIMARY KEY CHECK (index >= 0),
    id      uuid   NOT NULL,
    tenant  text   NOT NULL,
    service text   NOT NULL,
    seq     bigint NOT NULL CHECK (seq >= 1),
    digest  bytea  NOT NULL CHECK (length(digest) = 32),
    fact    bytea
);
COMMENT ON TABLE entry IS 'One fact of one service. The commitment stays for ever; the fact itself can be erased.';
COMMENT ON COLUMN entry.index IS 'class: public';
COMMENT ON COLUMN entry.id IS 'class: internal';
COMMENT ON COLUMN entry.tenant IS 'class: internal';
COMMENT ON COLUMN entry.service IS 'class: public';
COMMENT ON COLUMN entry.seq IS 'class: public';
COMMENT ON COLUMN entry.digest IS 'class: public';
COMMENT ON COLUMN entry.fact IS 'class: personal';
-- A service's facts are numbered: a second guard, beside the inbox, against recording one twice.
CREATE UNIQUE INDEX entry_once ON entry (service, seq);
-- Receipts are asked for by the fact's id, which is ordered by time: the index grows at its right edge. It is not unique: a
-- service that told a fact under another service's id would keep that one out of the log.
CREATE INDEX entry_by_id ON entry (id);
GRANT SELECT, INSERT ON entry TO :service_role;

CREATE TABLE tile (
    level  integer NOT NULL CHECK (level BETWEEN 0 AND 7),
    index  bigint  NOT NULL CHECK (index >= 0),
    hashes bytea   NOT NULL CHECK (length(hashes) % 32 = 0 AND length(hashes) BETWEEN 32 AND 8192),
    PRIMARY KEY (level, index)
);
-- Hashes don't compress.
ALTER TABLE tile ALTER COLUMN hashes SET STORAGE EXTERNAL;
COMMENT ON TABLE tile IS 'Up to 256 hashes each; only the last of a level grows, and it only grows.';
COMMENT ON COLUMN tile.level IS 'class: public';
COMMENT ON COLUMN tile.index IS 'class: public';
COMMENT ON COLUMN tile.hashes IS 'class: public';
GRANT SELECT, INSERT ON tile TO :service_role;
GRANT UPDATE (hashes) ON tile TO :service_role;

-- What a tile held stays what it holds: a second guard, beside the code that appends.
CREATE FUNCTION tile_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF substring(NEW.hashes FROM 1 FOR length(OLD.hashes)) <> OLD.hashes THEN
        RAISE EXCEPTION 'tile %/% would be rewritten', OLD.level, OLD.index USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tile_only_grows BEFORE UPDATE ON tile FOR EACH ROW EXECUTE FUNCTION tile_only_grows();

CREATE TABLE head (
    single   boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
    size     bigint  NOT NULL CHECK (size >= 0),
    frontier bytea   NOT NULL CHECK (length(frontier) % 32 = 0)
);
COMMENT ON TABLE head IS 'The tree as it stands. Its row lock is what makes one writer of all replicas: a fence that can not be outlived.';
COMMENT ON COLUMN head.single IS 'class: internal';
COMMENT ON COLUMN head.size IS 'class: public';
COMMENT ON COLUMN head.frontier IS 'class: public';
INSERT INTO head (size, frontier) VALUES (0, '');
GRANT SELECT ON head TO :service_role;
GRANT UPDATE (size, frontier) ON head TO :service_role;

CREATE FUNCTION head_only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.size < OLD.size THEN
        RAISE EXCEPTION 'the log would shrink from % to %', OLD.size, NEW.size USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER head_only_grows BEFORE UPDATE ON head FOR EACH ROW EXECUTE FUNCTION head_only_grows();

CREATE TABLE checkpoint (
    size      bigint      NOT NULL PRIMARY KEY CHECK (size > 0),
    note      text        NOT NULL,
    signed_at timestamptz NOT NULL
);
COMMENT ON TABLE checkpoint IS 'Signed tree heads: the newest, and one a minute of the past.';
COMMENT ON COLUMN checkpoint.size IS 'class: public';
COMMENT ON COLUMN checkpoint.note IS 'class: public';
COMMENT ON COLUMN checkpoint.signed_at IS 'class: public';
-- By the time of signing the old ones are thinned out.
CREATE INDEX checkpoint_by_time ON checkpoint (signed_at);
GRANT SELECT, INSERT, DELETE ON checkpoint TO :service_role;

CREATE FUNCTION newest_checkpoint_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM checkpoint WHERE size > OLD.size) THEN
        RAISE EXCEPTION 'checkpoint % is the newest', OLD.size USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER newest_checkpoint_stays BEFORE DELETE ON checkpoint
    FOR EACH ROW EXECUTE FUNCTION newest_checkpoint_stays();

CREATE TABLE log_key (
    name       text        NOT NULL PRIMARY KEY,
    public     bytea       NOT NULL CHECK (length(public) = 32),
    sealed     bytea       NOT NULL,
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE log_key IS 'The key that signs checkpoints; its private half is sealed by the key ring.';
COMMENT ON COLUMN log_key.name IS 'class: public';
COMMENT ON COLUMN log_key.public IS 'class: public';
COMMENT ON COLUMN log_key.sealed IS 'class: secret';
COMMENT ON COLUMN log_key.created_at IS 'class: internal';
GRANT SELECT, INSERT ON log_key TO :service_role;
