-- Nothing: SQLite has one writer at a time, and claims are numbered from lease_epochs. PostgreSQL has a sequence.
SELECT 1;
