-- With a token goes the stored answer that made it: found by the token's id.
CREATE INDEX idempotency_resource ON idempotency (resource) WHERE resource IS NOT NULL;
