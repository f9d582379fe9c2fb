-- Version 6: keys have an index of their own, apart from their values.

-- Without row ids the values stood in the tree that is searched for a key, and SQLite reads the whole row, value and
-- all, of each with which it compares: one large value made every key slow.
CREATE TABLE entry_of_6 (
    space TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    revision INTEGER NOT NULL,
    expires REAL NOT NULL,  -- seconds since the epoch; 0: never
    account BLOB  -- that the row counts for; NULL: none
);
INSERT INTO entry_of_6 (space, key, value, revision, expires, account)
    SELECT space, key, value, revision, expires, account FROM entry ORDER BY space, key;
DROP TABLE entry;
ALTER TABLE entry_of_6 RENAME TO entry;
CREATE UNIQUE INDEX entry_by_key ON entry (space, key);
CREATE INDEX entry_by_expiry ON entry (space, expires) WHERE expires > 0;
