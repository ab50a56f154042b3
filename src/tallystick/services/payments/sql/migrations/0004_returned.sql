-- What a refused refund reversed and gave back can't be reversed a second time: a later refund takes it by a transfer of its own.

ALTER TABLE refund ADD COLUMN returned boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN refund.returned IS 'class: internal';
