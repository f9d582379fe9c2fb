-- Version 2: what clients create counts for its owner, and logs without events are forgotten.

-- The account that the row counts for; NULL: none.
ALTER TABLE log ADD COLUMN account BLOB;
ALTER TABLE entry ADD COLUMN account BLOB;

-- How many rows count for each account; one that nothing counts for has no row.
CREATE TABLE account (
    name BLOB PRIMARY KEY,
    count INTEGER NOT NULL
) WITHOUT ROWID;

-- The last id of all forgotten logs whose names have the same hash: new ones begin above it.
CREATE TABLE floor (
    hash TEXT PRIMARY KEY,
    id INTEGER NOT NULL
) WITHOUT ROWID;
