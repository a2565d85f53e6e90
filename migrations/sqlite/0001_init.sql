-- Bytes that are in the store. A row is written after its bytes and deleted before them.
CREATE TABLE blobs (
    digest TEXT NOT NULL PRIMARY KEY,
    size BIGINT NOT NULL CHECK (size >= 0),
    -- Where in the store: the text form of a store key.
    store_key TEXT NOT NULL
);

-- A repository holds a digest: its upstream answered for it, or vouched for what names it.
CREATE TABLE links (
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE INDEX links_by_digest ON links (digest, repository);

-- Manifests and indexes, originals and converted ones; their bytes are blobs.
CREATE TABLE manifests (
    digest TEXT NOT NULL PRIMARY KEY REFERENCES blobs (digest),
    media_type TEXT NOT NULL,
    -- The manifest that this one is about.
    subject TEXT
);
CREATE INDEX manifests_by_subject ON manifests (subject) WHERE subject IS NOT NULL;

-- What a manifest names: config, layers, an index's manifests; not its subject. The child need not be stored.
CREATE TABLE manifest_children (
    manifest TEXT NOT NULL REFERENCES manifests (digest),
    child TEXT NOT NULL,
    PRIMARY KEY (manifest, child)
);
CREATE INDEX manifest_children_by_child ON manifest_children (child, manifest);

-- Tags as the upstream last told them.
CREATE TABLE tags (
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    -- When the upstream last confirmed the digest.
    checked_at BIGINT NOT NULL,
    -- When a client last got the original view by this tag.
    original_answered_at BIGINT,
    PRIMARY KEY (repository, tag)
);

-- Conversion profiles that rows may name.
CREATE TABLE profiles (
    id TEXT NOT NULL PRIMARY KEY,
    description TEXT NOT NULL
);

-- The twin of each source layer under each profile, or why there is none yet or ever.
CREATE TABLE twins (
    source TEXT NOT NULL,
    profile TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('converting', 'ready', 'unconvertible')),
    -- How often a conversion was begun.
    attempts BIGINT NOT NULL,
    -- The repository that asked first, to fill the source from.
    repository TEXT NOT NULL,
    -- Of ready rows: the blob, its plain tar, its TOC, and the source's plain tar.
    twin TEXT,
    twin_size BIGINT,
    diff_id TEXT,
    plain_size BIGINT,
    toc TEXT,
    toc_size BIGINT,
    source_diff_id TEXT,
    source_plain_size BIGINT,
    -- JSON: {"zeros": count} or {"bytes": hex}.
    tail TEXT,
    -- JSON: a list of paths.
    implied_dirs TEXT,
    -- Of unconvertible rows.
    reason TEXT,
    detail TEXT,
    PRIMARY KEY (source, profile)
);
CREATE INDEX twins_by_twin ON twins (twin) WHERE twin IS NOT NULL;
CREATE INDEX twins_by_toc ON twins (toc) WHERE toc IS NOT NULL;
CREATE INDEX twins_converting ON twins (profile) WHERE state = 'converting';

-- The one converted manifest of each source manifest. Never changed, never deleted: its digest was answered.
CREATE TABLE converted (
    source TEXT NOT NULL PRIMARY KEY,
    profile TEXT NOT NULL,
    manifest TEXT NOT NULL REFERENCES manifests (digest),
    -- The converted config; NULL for an index.
    config TEXT REFERENCES blobs (digest)
);
CREATE INDEX converted_by_manifest ON converted (manifest);
CREATE INDEX converted_by_config ON converted (config) WHERE config IS NOT NULL;

-- Fills that were begun and have not ended, to be taken up after a crash.
CREATE TABLE fills (
    digest TEXT NOT NULL PRIMARY KEY,
    repository TEXT NOT NULL,
    size BIGINT NOT NULL CHECK (size >= 0)
);
