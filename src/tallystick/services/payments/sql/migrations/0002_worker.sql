-- Which process works on a payment or a refund: when it has ended, others need not wait for the end of its lease.

ALTER TABLE payment ADD COLUMN worker bigint;
COMMENT ON COLUMN payment.worker IS 'class: internal; the number of a process''s life';
ALTER TABLE refund ADD COLUMN worker bigint;
COMMENT ON COLUMN refund.worker IS 'class: internal; the number of a process''s life';
