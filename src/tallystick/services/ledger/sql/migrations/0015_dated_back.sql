-- What was dated back on an account since a sequence: a statement by effective time is told as of one, whatever is dated back after it. One
-- entry for each side of a transfer that is dated back, none for the others.
CREATE INDEX adjustment_since ON adjustment (account, sequence) WHERE debits > 0 OR credits > 0;
