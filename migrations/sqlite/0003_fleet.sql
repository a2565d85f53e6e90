-- Conversions that failed for a passing reason: how often in a row, and when any process may try again by itself
-- (milliseconds since 1970, the database's clock).
ALTER TABLE twins ADD COLUMN failures BIGINT NOT NULL DEFAULT 0;
ALTER TABLE twins ADD COLUMN retry_at BIGINT NOT NULL DEFAULT 0;

CREATE INDEX leases_by_owner ON leases (owner);
