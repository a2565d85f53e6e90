-- Work that one process at a time does. A row is there while somebody does it, or died doing it.
CREATE TABLE leases (
    kind TEXT NOT NULL CHECK (kind IN ('fill', 'conversion')),
    -- The digest of the blob or of the source layer.
    subject TEXT NOT NULL,
    -- Of a fill the upstream's name, of a conversion the profile's id.
    scope TEXT NOT NULL,
    -- The number of the claim; what is committed under a lease is committed only while the epoch is still its own.
    epoch BIGINT NOT NULL,
    -- The process that does it, and where other processes reach it (empty: nowhere).
    owner TEXT NOT NULL,
    address TEXT NOT NULL,
    -- From this moment on, by the database's clock, others may claim it.
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (kind, subject, scope)
);
CREATE INDEX leases_by_expiry ON leases (expires_at);

-- The number of the last claim of all. One row.
CREATE TABLE lease_epochs (
    last BIGINT NOT NULL
);
INSERT INTO lease_epochs (last) VALUES (0);
