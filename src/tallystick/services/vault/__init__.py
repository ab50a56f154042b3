"""Card and bank account numbers: in as numbers, out as tokens, and to acquirers without anybody else seeing them."""
