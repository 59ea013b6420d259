"""The database's schema as an ordered list of migrations; `user_version` counts those that were applied.

A migration that was released is never edited: append another. Times in columns are integers,
nanoseconds since the epoch, UTC; in JSON records they are RFC 3339.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

from shoal.errors import FailedPrecondition

_FIRST = """
CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    id TEXT PRIMARY KEY,
    parent_id TEXT REFERENCES snapshots (id) ON DELETE RESTRICT,
    committed INTEGER NOT NULL CHECK (committed IN (0, 1)),
    uid_base INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    chain_id TEXT UNIQUE,
    diff_id TEXT,
    size_bytes INTEGER NOT NULL
) STRICT;
CREATE INDEX snapshots_by_parent ON snapshots (parent_id);

CREATE TABLE blobs (
    digest TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    media_type TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    id TEXT PRIMARY KEY,
    manifest_digest TEXT NOT NULL,
    manifest_media_type TEXT NOT NULL,
    config TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    chain_id TEXT NOT NULL
) STRICT;
CREATE INDEX images_by_manifest ON images (manifest_digest);

-- Not a foreign key to blobs: a layer's compressed form may be absent while its snapshot is there.
CREATE TABLE image_blobs (
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (image_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX image_blobs_by_digest ON image_blobs (digest);

CREATE TABLE image_names (
    reference TEXT PRIMARY KEY,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    kind TEXT NOT NULL CHECK (kind IN ('tag', 'digest'))
) STRICT, WITHOUT ROWID;
CREATE INDEX image_names_by_image ON image_names (image_id);

-- The record is JSON; what queries and constraints need of it are generated columns, so that nothing is said twice and
-- a new field needs no migration. image_id is no foreign key: an image can be removed by force from under a container.
CREATE TABLE containers (
    id TEXT PRIMARY KEY,
    record TEXT NOT NULL,
    name TEXT NOT NULL UNIQUE GENERATED ALWAYS AS (json_extract(record, '$.name')) STORED,
    request_id TEXT UNIQUE GENERATED ALWAYS AS (nullif(json_extract(record, '$.request_id'), '')) STORED,
    image_id TEXT NOT NULL GENERATED ALWAYS AS (json_extract(record, '$.image_id')) STORED,
    state TEXT NOT NULL GENERATED ALWAYS AS (json_extract(record, '$.state')) STORED,
    userns_base INTEGER NOT NULL GENERATED ALWAYS AS (json_extract(record, '$.userns_base')) STORED,
    snapshot_id TEXT GENERATED ALWAYS AS (nullif(json_extract(record, '$.snapshot_id'), '')) STORED
        REFERENCES snapshots (id) ON DELETE RESTRICT
) STRICT;
CREATE INDEX containers_by_image ON containers (image_id);
CREATE INDEX containers_by_snapshot ON containers (snapshot_id);

-- Owners are container ids or the ids of build steps: text, not foreign keys.
CREATE TABLE addresses (
    address INTEGER PRIMARY KEY,
    subnet TEXT NOT NULL,
    owner TEXT NOT NULL,
    UNIQUE (owner, subnet)
) STRICT;

CREATE TABLE ports (
    protocol TEXT NOT NULL,
    port INTEGER NOT NULL,
    host_ip TEXT NOT NULL,
    container_port INTEGER NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (protocol, port, host_ip)
) STRICT, WITHOUT ROWID;
CREATE INDEX ports_by_owner ON ports (owner);

CREATE TABLE leases (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE lease_holds (
    lease_id TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (lease_id, kind, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_holds_by_key ON lease_holds (kind, key);

CREATE TABLE cache (
    key TEXT PRIMARY KEY,
    snapshot_id TEXT REFERENCES snapshots (id) ON DELETE CASCADE,
    diff_id TEXT,
    blob_digest TEXT,
    description TEXT NOT NULL,
    data TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    use_count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_by_snapshot ON cache (snapshot_id);

CREATE TABLE volumes (
    name TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    anonymous INTEGER NOT NULL CHECK (anonymous IN (0, 1))
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: a cursor is never given twice, also after all events were trimmed.
CREATE TABLE events (
    cursor INTEGER PRIMARY KEY AUTOINCREMENT,
    type TEXT NOT NULL,
    action TEXT NOT NULL,
    actor_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    attributes TEXT NOT NULL
) STRICT;
"""

_VOLUMES_AND_FILES = """
ALTER TABLE volumes ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE volumes ADD COLUMN options TEXT NOT NULL DEFAULT '{}';

-- Files of clients. What containers use is told by their records; the rest is kept for a while after `used_at`.
CREATE TABLE file_blobs (
    digest TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    used_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE file_trees (
    digest TEXT PRIMARY KEY,
    size_bytes INTEGER NOT NULL,
    used_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

_NETWORKS = """
CREATE TABLE networks (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    record TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Not a foreign key to networks: the default one has no row.
CREATE TABLE memberships (
    container_id TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
    network TEXT NOT NULL,
    position INTEGER NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (container_id, network)
) STRICT, WITHOUT ROWID;
CREATE INDEX memberships_by_network ON memberships (network);

INSERT INTO memberships (container_id, network, position, record)
    SELECT id, 'bridge', 0, json_object('network', 'bridge') FROM containers
    WHERE coalesce(json_extract(record, '$.spec.network'), 'bridge') = 'bridge';

-- 16 bytes each, which sort as the addresses do.
CREATE TABLE addresses6 (
    address BLOB PRIMARY KEY,
    subnet TEXT NOT NULL,
    owner TEXT NOT NULL,
    UNIQUE (owner, subnet)
) STRICT, WITHOUT ROWID;
"""

_INDEXES = """
-- One image for several platforms, or with attestations. `image_id` is what it means on this host.
CREATE TABLE indexes (
    digest TEXT PRIMARY KEY,
    media_type TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX indexes_by_image ON indexes (image_id);

CREATE TABLE index_images (
    index_digest TEXT NOT NULL REFERENCES indexes (digest) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    PRIMARY KEY (index_digest, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX index_images_by_image ON index_images (image_id);

-- What an index needs: itself, and its images and attestations with all that they consist of.
CREATE TABLE index_blobs (
    index_digest TEXT NOT NULL REFERENCES indexes (digest) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    PRIMARY KEY (index_digest, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX index_blobs_by_digest ON index_blobs (digest);

CREATE TABLE index_names (
    reference TEXT PRIMARY KEY REFERENCES image_names (reference) ON DELETE CASCADE,
    index_digest TEXT NOT NULL REFERENCES indexes (digest) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;
CREATE INDEX index_names_by_index ON index_names (index_digest);
"""

MIGRATIONS: Sequence[str] = (_FIRST, _VOLUMES_AND_FILES, _NETWORKS, _INDEXES)
"""Script n brings a database from `user_version` n to n + 1."""


def migrate(connection: sqlite3.Connection, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Bring the database to the newest schema, each step in a transaction of its own.

    Raises FailedPrecondition (SCHEMA_TOO_NEW) for a database that a newer shoald has written.
    """
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise FailedPrecondition(
            f"the state of this host has schema {version}, but this shoald knows only up to {len(migrations)}",
            reason="SCHEMA_TOO_NEW",
            hint="run the newer shoald again; a downgrade needs a backup from before the upgrade",
        )
    for number in range(version, len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(migrations[number]):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1:d}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")


def statements(script: str) -> Iterator[str]:
    """Split a script; sqlite3's own `executescript` would commit the transaction that a migration needs."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        raise ValueError(f"incomplete statement at the end of a migration: {pending.strip()!r}")
