-- The log's key stays what it is, and is sealed anew when the key that sealed it gets a successor.
GRANT UPDATE (sealed) ON log_key TO :service_role;
CREATE TRIGGER log_key_under_living_key AFTER INSERT OR UPDATE OF sealed ON log_key
    FOR EACH ROW EXECUTE FUNCTION sealed_under_living_key('sealed');
