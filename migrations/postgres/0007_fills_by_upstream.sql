-- Each upstream's fill of a digest is a fill of its own. Not an expansion: a version before this one cannot record fills on
-- the result, but none was released.
ALTER TABLE fills ADD COLUMN upstream TEXT COLLATE "C" NOT NULL DEFAULT '';
UPDATE fills SET upstream = split_part(repository, '/', 1);
ALTER TABLE fills ALTER COLUMN upstream DROP DEFAULT;
ALTER TABLE fills DROP CONSTRAINT fills_pkey;
ALTER TABLE fills ADD PRIMARY KEY (digest, upstream);
