-- Imports: the records of a file, staged until the import is done, and what became of it.

CREATE TABLE import (
    id              uuid        NOT NULL PRIMARY KEY,
    book            integer     NOT NULL REFERENCES book,
    tenant          text        NOT NULL,
    actor           text        NOT NULL,
    mode            text        NOT NULL CHECK (mode IN ('whole', 'parts', 'valid')),
    dry_run         boolean     NOT NULL,
    state           text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'queued', 'done', 'failed')),
    rows            integer     NOT NULL CHECK (rows > 0),
    sha256          bytea       NOT NULL CHECK (length(sha256) = 32),
    wanted_sequence bigint      CHECK (wanted_sequence >= 0),
    line            integer     NOT NULL DEFAULT 0 CHECK (line >= 0),
    tries           integer     NOT NULL DEFAULT 0 CHECK (tries >= 0),
    accounts        integer     NOT NULL DEFAULT 0,
    accounts_known  integer     NOT NULL DEFAULT 0,
    transfers       integer     NOT NULL DEFAULT 0,
    transfers_known integer     NOT NULL DEFAULT 0,
    refused         integer     NOT NULL DEFAULT 0,
    reason          text        CHECK (length(reason) BETWEEN 1 AND 1000),
    sequence        bigint,
    created_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    CONSTRAINT import_finished CHECK ((finished_at IS NULL) = (state IN ('open', 'queued')))
);
COMMENT ON TABLE import IS 'One per file that was brought, and what became of it.';
COMMENT ON COLUMN import.id IS 'class: internal';
COMMENT ON COLUMN import.book IS 'class: internal';
COMMENT ON COLUMN import.tenant IS 'class: internal';
COMMENT ON COLUMN import.actor IS 'class: internal';
COMMENT ON COLUMN import.mode IS 'class: internal';
COMMENT ON COLUMN import.dry_run IS 'class: internal';
COMMENT ON COLUMN import.state IS 'class: internal';
COMMENT ON COLUMN import.rows IS 'class: internal';
COMMENT ON COLUMN import.sha256 IS 'class: internal';
COMMENT ON COLUMN import.wanted_sequence IS 'class: internal';
COMMENT ON COLUMN import.line IS 'class: internal';
COMMENT ON COLUMN import.tries IS 'class: internal';
COMMENT ON COLUMN import.accounts IS 'class: internal';
COMMENT ON COLUMN import.accounts_known IS 'class: internal';
COMMENT ON COLUMN import.transfers IS 'class: internal';
COMMENT ON COLUMN import.transfers_known IS 'class: internal';
COMMENT ON COLUMN import.refused IS 'class: internal';
COMMENT ON COLUMN import.reason IS 'class: internal';
COMMENT ON COLUMN import.sequence IS 'class: internal';
COMMENT ON COLUMN import.created_at IS 'class: internal';
COMMENT ON COLUMN import.finished_at IS 'class: internal';
-- The same content comes into a book once, also while it is on its way; what failed or was a trial may be tried again.
CREATE UNIQUE INDEX import_content ON import (book, sha256, mode, dry_run) WHERE state IN ('open', 'queued') OR (state = 'done' AND NOT dry_run);
-- The next to run, and those that nobody goes on with.
CREATE INDEX import_unfinished ON import (state, created_at) WHERE state IN ('open', 'queued');

CREATE TABLE import_line (
    import  uuid    NOT NULL REFERENCES import,
    line    integer NOT NULL CHECK (line > 0),
    posting boolean NOT NULL,
    record  text    NOT NULL,
    PRIMARY KEY (import, line)
);
COMMENT ON TABLE import_line IS 'Records of an import that is not done yet. posting: transfers and transactions; the others are what the book is.';
COMMENT ON COLUMN import_line.import IS 'class: internal';
COMMENT ON COLUMN import_line.line IS 'class: internal';
COMMENT ON COLUMN import_line.posting IS 'class: internal';
COMMENT ON COLUMN import_line.record IS 'class: personal';

CREATE TABLE import_refusal (
    import uuid    NOT NULL REFERENCES import,
    line   integer NOT NULL,
    field  text    CHECK (length(field) <= 200),
    reason text    NOT NULL CHECK (length(reason) BETWEEN 1 AND 100),
    detail text    NOT NULL CHECK (length(detail) <= 500),
    PRIMARY KEY (import, line)
);
COMMENT ON TABLE import_refusal IS 'Lines that an import refused, and why.';
COMMENT ON COLUMN import_refusal.import IS 'class: internal';
COMMENT ON COLUMN import_refusal.line IS 'class: internal';
COMMENT ON COLUMN import_refusal.field IS 'class: internal';
COMMENT ON COLUMN import_refusal.reason IS 'class: internal';
COMMENT ON COLUMN import_refusal.detail IS 'class: internal';

GRANT SELECT, INSERT ON import TO :service_role;
GRANT UPDATE (
    state, line, tries, accounts, accounts_known, transfers, transfers_known, refused, reason, sequence, finished_at
) ON import TO :service_role;
GRANT SELECT, INSERT, DELETE ON import_line, import_refusal TO :service_role;
