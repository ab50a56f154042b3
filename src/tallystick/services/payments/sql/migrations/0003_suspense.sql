-- What a refund took and the payee's account takes back no more waits on an account of payments' own.

ALTER TABLE refund ADD COLUMN suspended boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN refund.suspended IS 'class: internal';
