-- Whether the store has the meta object that says so (1), or not yet (0); before that the digest is not answered.
ALTER TABLE converted ADD COLUMN noted BIGINT NOT NULL DEFAULT 0;

-- What was done to the catalog as a whole, or is under way.
CREATE TABLE marks (
    name TEXT NOT NULL PRIMARY KEY,
    -- When it was done or begun.
    marked_at BIGINT NOT NULL
);
