-- Version 3: events say what their bodies are, and until when they are good; keys of events that are sent again.

ALTER TABLE event ADD COLUMN content_type BLOB;  -- NULL: JSON
ALTER TABLE event ADD COLUMN expires REAL;  -- seconds since the epoch; NULL: never

-- The event that a log has got by a key: what comes by it again until it expires is not stored.
CREATE TABLE known_key (
    log BLOB NOT NULL,  -- its name
    key BLOB NOT NULL,
    id INTEGER NOT NULL,
    time REAL NOT NULL,
    expires REAL NOT NULL,
    PRIMARY KEY (log, key)
) WITHOUT ROWID;

CREATE INDEX known_key_by_expiry ON known_key (expires);
