-- Secrets, and the answers that hold one, are sealed anew when the key that sealed them gets a successor, and never stored under one that is gone.
CREATE TRIGGER endpoint_under_living_key AFTER INSERT OR UPDATE OF sealed_secret ON endpoint
    FOR EACH ROW EXECUTE FUNCTION sealed_under_living_key('sealed_secret');
CREATE TRIGGER idempotency_under_living_key AFTER INSERT OR UPDATE OF body ON idempotency
    FOR EACH ROW WHEN (NEW.body IS NOT NULL) EXECUTE FUNCTION sealed_under_living_key('body');
-- To save an answer by the endpoint that it tells of.
CREATE INDEX idempotency_resource ON idempotency (resource) WHERE resource IS NOT NULL;
