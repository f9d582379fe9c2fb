-- Version 1 of the file of the SQLite store.  Texts that clients choose are
-- UTF-8 in blobs: they may hold U+0000, and blobs sort by their bytes.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL
) WITHOUT ROWID;

-- Visible are the events with trimmed < id; those up to "purged" are deleted,
-- those between the two soon will be.  The head of a log is its largest id,
-- or "trimmed" when that is larger, so that no id is ever given twice.
CREATE TABLE log (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL UNIQUE,
    trimmed INTEGER NOT NULL DEFAULT 0,
    purged INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX log_to_purge ON log (id) WHERE purged < trimmed;

-- A rowid table: rows are added at its end, and only the index is scattered.
CREATE TABLE event (
    log INTEGER NOT NULL,
    id INTEGER NOT NULL,
    time REAL NOT NULL,
    source BLOB NOT NULL,  -- then, if the event has an author, a byte 255 and that
    name BLOB NOT NULL,
    body BLOB,
    topic BLOB NOT NULL  -- an integer: the name of the log without so many characters
);

CREATE UNIQUE INDEX event_by_id ON event (log, id);

CREATE TABLE entry (
    space TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    revision INTEGER NOT NULL,
    expires REAL NOT NULL,  -- seconds since the epoch; 0: never
    PRIMARY KEY (space, key)
) WITHOUT ROWID;

CREATE INDEX entry_by_expiry ON entry (space, expires) WHERE expires > 0;
