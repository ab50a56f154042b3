-- Money between books: finding the transit accounts. What is in flight on them are open holds, for which there is an index by account already.

-- The transit accounts, a few for each pair of books. A path never changes, so this index costs a posting nothing.
CREATE INDEX account_transit ON account (id) WHERE path >= 'transit:' AND path < 'transit;';
