-- What the rules read besides transfers and totals.
ALTER TABLE book ADD COLUMN revision bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN book.revision IS 'class: internal';
GRANT UPDATE (revision) ON book TO :service_role;
