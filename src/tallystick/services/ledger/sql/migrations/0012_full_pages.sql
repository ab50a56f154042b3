-- Ids rise with time and numbers count up, so these two indexes grow at their right end and nothing comes into a page later: the tenth of
-- each page that is left free by default would stay free. Pages that are there already stay as they are.
ALTER INDEX transfer_pkey SET (fillfactor = 100);
ALTER INDEX transfer_sequence SET (fillfactor = 100);
