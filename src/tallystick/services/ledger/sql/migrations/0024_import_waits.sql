-- When a queued import is run again that could not be run to its end, and why it could not. A table of its own, since the version before reads all
-- columns of `import`. A run that nobody ends (its process was killed) has no reason.
CREATE TABLE import_wait (
    import uuid        NOT NULL PRIMARY KEY REFERENCES import,
    since  timestamptz NOT NULL,
    due_at timestamptz NOT NULL,
    reason text        CHECK (length(reason) BETWEEN 1 AND 1000)
);
COMMENT ON TABLE import_wait IS 'Queued imports that were run and did not get further since.';
COMMENT ON COLUMN import_wait.import IS 'class: internal';
COMMENT ON COLUMN import_wait.since IS 'class: internal';
COMMENT ON COLUMN import_wait.due_at IS 'class: internal';
COMMENT ON COLUMN import_wait.reason IS 'class: internal';
GRANT SELECT, INSERT, UPDATE, DELETE ON import_wait TO :service_role;
