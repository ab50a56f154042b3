-- Whether what was refused was part of a transfer between books: such a transfer has left nothing else, and other refusals are not told as one.
ALTER TABLE rejection ADD COLUMN crossing boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN rejection.crossing IS 'class: internal';
