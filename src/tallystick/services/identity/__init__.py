"""Identity: who a client is, what it may ask for, and how everyone else can check that."""
