-- A signing key's private half is sealed anew when the key that sealed it gets a successor, and is never stored under one that is gone.
CREATE TRIGGER signing_key_under_living_key AFTER INSERT OR UPDATE OF sealed_private ON signing_key
    FOR EACH ROW WHEN (NEW.sealed_private IS NOT NULL) EXECUTE FUNCTION sealed_under_living_key('sealed_private');
