-- What must hold in identity. Each query gives the faults it finds, as text: none, if all is well.

-- name: one_key_of_each_purpose_signs
-- Exactly one key is active for each purpose.
SELECT format('%s: %s active keys', purpose, count(*) FILTER (WHERE state = 'active')) AS fault
FROM signing_key GROUP BY purpose HAVING count(*) FILTER (WHERE state = 'active') <> 1;
