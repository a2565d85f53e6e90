-- When the bytes of a digest were last asked for or stored, by the database's clock; 0: not known, as in rows of
-- earlier versions, which a collection takes for used at that moment. Not indexed: it changes far more often than a
-- collection looks for the oldest.
ALTER TABLE blobs ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;

-- Keys that no row names any more and whose bytes are to be deleted from the store at a moment. A row goes after its bytes.
CREATE TABLE deletions (
    store_key TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    digest TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL CHECK (size >= 0),
    delete_after BIGINT NOT NULL
);
CREATE INDEX deletions_by_time ON deletions (delete_after);

-- Images that are never evicted: their manifests or indexes, all that these name, and its twins.
CREATE TABLE pins (
    repository TEXT COLLATE "C" NOT NULL,
    -- The tag or digest that was pinned.
    reference TEXT COLLATE "C" NOT NULL,
    -- What it meant then.
    digest TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (repository, reference)
);

-- Blobs that somebody still reads parts of, and that are not evicted before a moment.
CREATE TABLE holds (
    digest TEXT COLLATE "C" NOT NULL,
    -- Who; chosen by itself.
    holder TEXT COLLATE "C" NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (digest, holder)
);

-- When the whole fleet last did what it does from time to time.
CREATE TABLE chores (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    done_at BIGINT NOT NULL
);

-- Collecting is work for one process at a time, too; its subject is empty.
ALTER TABLE leases DROP CONSTRAINT leases_kind_check;
ALTER TABLE leases ADD CONSTRAINT leases_kind_check CHECK (kind IN ('fill', 'conversion', 'gc'));
