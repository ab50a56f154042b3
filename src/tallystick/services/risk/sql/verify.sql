-- What must hold in risk. Each query gives the faults it finds, as text: none, if all is well.

-- name: denials_have_reasons
-- Every denial has a reason.
SELECT format('decision %s', id) AS fault FROM decision WHERE decision = 'deny' AND cardinality(reasons) = 0 LIMIT 20;
