-- The one store that the catalog speaks of.
CREATE TABLE tie (
    -- There is one row.
    place BIGINT NOT NULL PRIMARY KEY CHECK (place = 1),
    -- A random name that the store has, too.
    id TEXT NOT NULL,
    -- Whether the store has had it (1), or is to get it (0).
    confirmed BIGINT NOT NULL
);
