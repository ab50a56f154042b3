-- Payments by their tenant's own reference, newest first. Without this all payments of the tenant were read to find one. Payments that
-- have no reference cost nothing.
CREATE INDEX payment_by_reference ON payment (tenant, reference, id DESC) WHERE reference IS NOT NULL;
