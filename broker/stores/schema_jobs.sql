-- Jobs of work queues.  A number is given once: "jobs" in meta is the highest that may have been given.

CREATE TABLE queue (
    id INTEGER PRIMARY KEY,
    name BLOB NOT NULL UNIQUE,
    account BLOB  -- that it counts for; NULL: none
);

CREATE TABLE job (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    state INTEGER NOT NULL,  -- see sqlite_jobs.py
    due REAL NOT NULL,  -- when it is or became ready, its lease ends, or it died; by its state
    token INTEGER NOT NULL DEFAULT 0,
    deliveries INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    expires REAL NOT NULL,  -- 0: never
    added REAL NOT NULL,
    time REAL NOT NULL,
    source BLOB NOT NULL,
    ref BLOB NOT NULL,
    body BLOB NOT NULL,
    ordered BLOB,  -- the order key; NULL: none
    worker BLOB NOT NULL DEFAULT x'',
    named INTEGER NOT NULL DEFAULT 0,
    node BLOB NOT NULL DEFAULT x'',
    reason BLOB NOT NULL DEFAULT x''
);

CREATE INDEX job_by_state ON job (state, queue, id);
CREATE INDEX job_by_due ON job (queue, due) WHERE state IN (2, 3);
CREATE INDEX job_by_end ON job (queue, expires) WHERE expires > 0;
CREATE INDEX job_by_order ON job (queue, ordered, state, id) WHERE ordered IS NOT NULL;

CREATE TABLE job_key (
    queue INTEGER NOT NULL,
    key BLOB NOT NULL,
    job INTEGER NOT NULL,
    expires REAL NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;

CREATE INDEX job_key_by_end ON job_key (expires);
