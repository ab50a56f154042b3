-- What must hold in the vault. Each query gives the faults it finds, as text: none, if all is well.

-- name: destroyed_means_gone
-- A destroyed token holds nothing any more, a living one holds its sealed number.
SELECT format('token %s', id) AS fault FROM token WHERE (destroyed_at IS NOT NULL) <> (sealed IS NULL) LIMIT 20;
