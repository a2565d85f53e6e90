-- Bytes that are in the store. A row is written after its bytes and deleted before them.
CREATE TABLE blobs (
    digest TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    size BIGINT NOT NULL CHECK (size >= 0),
    -- Where in the store: the text form of a store key.
    store_key TEXT COLLATE "C" NOT NULL
);

-- A repository holds a digest: its upstream answered for it, or vouched for what names it.
CREATE TABLE links (
    repository TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE INDEX links_by_digest ON links (digest, repository);

-- Manifests and indexes, originals and converted ones; their bytes are blobs.
CREATE TABLE manifests (
    digest TEXT COLLATE "C" NOT NULL PRIMARY KEY REFERENCES blobs (digest),
    media_type TEXT COLLATE "C" NOT NULL,
    -- The manifest that this one is about.
    subject TEXT COLLATE "C"
);
CREATE INDEX manifests_by_subject ON manifests (subject) WHERE subject IS NOT NULL;

-- What a manifest names: config, layers, an index's manifests; not its subject. The child need not be stored.
CREATE TABLE manifest_children (
    manifest TEXT COLLATE "C" NOT NULL REFERENCES manifests (digest),
    child TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (manifest, child)
);
CREATE INDEX manifest_children_by_child ON manifest_children (child, manifest);

-- Tags as the upstream last told them.
CREATE TABLE tags (
    repository TEXT COLLATE "C" NOT NULL,
    tag TEXT COLLATE "C" NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    -- When the upstream last confirmed the digest.
    checked_at BIGINT NOT NULL,
    -- When a client last got the original view by this tag.
    original_answered_at BIGINT,
    PRIMARY KEY (repository, tag)
);

-- Conversion profiles that rows may name.
CREATE TABLE profiles (
    id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    description TEXT COLLATE "C" NOT NULL
);

-- The twin of each source layer under each profile, or why there is none yet or ever.
CREATE TABLE twins (
    source TEXT COLLATE "C" NOT NULL,
    profile TEXT COLLATE "C" NOT NULL,
    state TEXT COLLATE "C" NOT NULL CHECK (state IN ('converting', 'ready', 'unconvertible')),
    -- How often a conversion was begun.
    attempts BIGINT NOT NULL,
    -- The repository that asked first, to fill the source from.
    repository TEXT COLLATE "C" NOT NULL,
    -- Of ready rows: the blob, its plain tar, its TOC, and the source's plain tar.
    twin TEXT COLLATE "C",
    twin_size BIGINT,
    diff_id TEXT COLLATE "C",
    plain_size BIGINT,
    toc TEXT COLLATE "C",
    toc_size BIGINT,
    source_diff_id TEXT COLLATE "C",
    source_plain_size BIGINT,
    -- JSON: {"zeros": count} or {"bytes": hex}.
    tail TEXT COLLATE "C",
    -- JSON: a list of paths.
    implied_dirs TEXT COLLATE "C",
    -- Of unconvertible rows.
    reason TEXT COLLATE "C",
    detail TEXT COLLATE "C",
    PRIMARY KEY (source, profile)
);
CREATE INDEX twins_by_twin ON twins (twin) WHERE twin IS NOT NULL;
CREATE INDEX twins_by_toc ON twins (toc) WHERE toc IS NOT NULL;
CREATE INDEX twins_converting ON twins (profile) WHERE state = 'converting';

-- The one converted manifest of each source manifest. Never changed, never deleted: its digest was answered.
CREATE TABLE converted (
    source TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    profile TEXT COLLATE "C" NOT NULL,
    manifest TEXT COLLATE "C" NOT NULL REFERENCES manifests (digest),
    -- The converted config; NULL for an index.
    config TEXT COLLATE "C" REFERENCES blobs (digest)
);
CREATE INDEX converted_by_manifest ON converted (manifest);
CREATE INDEX converted_by_config ON converted (config) WHERE config IS NOT NULL;

-- Fills that were begun and have not ended, to be taken up after a crash.
CREATE TABLE fills (
    digest TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    repository TEXT COLLATE "C" NOT NULL,
    size BIGINT NOT NULL CHECK (size >= 0)
);
