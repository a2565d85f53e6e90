-- Each upstream's fill of a digest is a fill of its own. Not an expansion: a version before this one cannot record fills on
-- the result, but none was released. SQLite changes a key by making the table anew.
ALTER TABLE fills RENAME TO fills_before;
CREATE TABLE fills (
    digest TEXT NOT NULL,
    -- The upstream's name, which the repository begins with.
    upstream TEXT NOT NULL,
    repository TEXT NOT NULL,
    size BIGINT NOT NULL CHECK (size >= 0),
    PRIMARY KEY (digest, upstream)
);
INSERT INTO fills (digest, upstream, repository, size)
    SELECT digest, substr(repository, 1, instr(repository, '/') - 1), repository, size FROM fills_before;
DROP TABLE fills_before;
