-- Which account a refusal was about, by its id, or as it was named if it was not there; and on which past days a limit would have been broken. So
-- that who asks again is told all that was told at first. Refusals of before do not know.
ALTER TABLE rejection ADD COLUMN account text, ADD COLUMN breached_on date[];
COMMENT ON COLUMN rejection.account IS 'class: personal';
COMMENT ON COLUMN rejection.breached_on IS 'class: internal';
