-- When the bytes of a digest were last asked for or stored, by the database's clock; 0: not known, as in rows of
-- earlier versions, which a collection takes for used at that moment. Not indexed: it changes far more often than a
-- collection looks for the oldest.
ALTER TABLE blobs ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;

-- Keys that no row names any more and whose bytes are to be deleted from the store at a moment. A row goes after its bytes.
CREATE TABLE deletions (
    store_key TEXT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL CHECK (size >= 0),
    delete_after BIGINT NOT NULL
);
CREATE INDEX deletions_by_time ON deletions (delete_after);

-- Images that are never evicted: their manifests or indexes, all that these name, and its twins.
CREATE TABLE pins (
    repository TEXT NOT NULL,
    -- The tag or digest that was pinned.
    reference TEXT NOT NULL,
    -- What it meant then.
    digest TEXT NOT NULL,
    PRIMARY KEY (repository, reference)
);

-- Blobs that somebody still reads parts of, and that are not evicted before a moment.
CREATE TABLE holds (
    digest TEXT NOT NULL,
    -- Who; chosen by itself.
    holder TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (digest, holder)
);

-- When the whole fleet last did what it does from time to time.
CREATE TABLE chores (
    name TEXT NOT NULL PRIMARY KEY,
    done_at BIGINT NOT NULL
);

-- Collecting is work for one process at a time, too. SQLite changes a check by making the table anew.
DROP INDEX leases_by_expiry;
DROP INDEX leases_by_owner;
ALTER TABLE leases RENAME TO leases_before;
CREATE TABLE leases (
    kind TEXT NOT NULL CHECK (kind IN ('fill', 'conversion', 'gc')),
    -- The digest of the blob or of the source layer; empty for a collection.
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
INSERT INTO leases (kind, subject, scope, epoch, owner, address, expires_at)
    SELECT kind, subject, scope, epoch, owner, address, expires_at FROM leases_before;
DROP TABLE leases_before;
CREATE INDEX leases_by_owner ON leases (owner);
