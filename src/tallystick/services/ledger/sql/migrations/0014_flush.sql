-- A flush is sent while the one that it was decided on is still being stored (ADR 33). Numbers alone can't say that it was that one which was
-- stored: another replica may store as many transfers in its place. So each flush has a number of its own, made at random, and the next one
-- asks for it.
ALTER TABLE book ADD COLUMN flush bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN book.flush IS 'class: internal';
GRANT UPDATE (flush) ON book TO :service_role;
