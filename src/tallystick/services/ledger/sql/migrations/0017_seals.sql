-- A seal is an instant since which something can be effective. One before that sealed nothing, and an infinite one is no instant to whoever
-- reads the book: what was sealed so is not sealed.
UPDATE book SET sealed_until = NULL WHERE sealed_until < '1970-01-01T00:00:00Z' OR NOT isfinite(sealed_until);
ALTER TABLE book ADD CONSTRAINT book_sealed_until CHECK (isfinite(sealed_until) AND sealed_until >= '1970-01-01T00:00:00Z');
