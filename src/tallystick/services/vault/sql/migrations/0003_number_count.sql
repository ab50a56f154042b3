-- How many numbers that were new to their tenant came in a day, by what is shown of them: against trying all of them (model.alike).
-- No part of a token, so that destroying tokens takes nothing back.
CREATE TABLE number_count (
    day   date    NOT NULL,
    look  bytea   NOT NULL CHECK (length(look) = 32),
    taken bigint  NOT NULL CHECK (taken > 0),
    PRIMARY KEY (day, look)
);
COMMENT ON TABLE number_count IS 'New numbers of a day by their look; kept until the day is over.';
COMMENT ON COLUMN number_count.day IS 'class: internal';
COMMENT ON COLUMN number_count.look IS 'class: personal';
COMMENT ON COLUMN number_count.taken IS 'class: internal';

GRANT SELECT, INSERT, DELETE, UPDATE (taken) ON number_count TO :service_role;
