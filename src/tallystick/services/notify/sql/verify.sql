-- What must hold in notify. Each query gives the faults it finds, as text: none, if all is well.

-- name: deliveries_end
-- What is pending is due at some time, what is not is not.
SELECT format('delivery %s is %s, next at %s', id, status, next_at) AS fault
FROM delivery WHERE (status = 'pending') <> (next_at IS NOT NULL)
LIMIT 20;
