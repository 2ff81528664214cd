-- Counters of uses per minute, hour and day, and how far the use log has been folded into them.
-- Buckets and times are µs since the Unix epoch, the unit of the log; a bucket is named by its start.

CREATE SCHEMA usage AUTHORIZATION keyledger_owner;
SET LOCAL ROLE keyledger_owner;

-- The position is moved in the transaction that adds what it stands for: each batch counts once.
CREATE TABLE usage.progress (
    epoch_line   bytea  PRIMARY KEY,
    epoch_number bigint NOT NULL,
    position     bigint NOT NULL
) WITH (fillfactor = 50);

-- The key of the index is the order of the answers; environment and outcome are few a key.
CREATE TABLE usage.use_minute (
    workspace_id text COLLATE "C" NOT NULL,
    bucket       bigint NOT NULL,
    key_id       text COLLATE "C" NOT NULL,
    environment  text COLLATE "C" NOT NULL,
    outcome      text COLLATE "C" NOT NULL,
    count        bigint NOT NULL,
    cost         bigint NOT NULL,
    PRIMARY KEY (workspace_id, bucket, key_id, environment, outcome)
) WITH (fillfactor = 80);
-- One key's usage must not read its whole workspace's.
CREATE INDEX use_minute_by_key ON usage.use_minute (workspace_id, key_id, bucket);

CREATE TABLE usage.use_hour (LIKE usage.use_minute INCLUDING ALL) WITH (fillfactor = 80);
CREATE TABLE usage.use_day (LIKE usage.use_minute INCLUDING ALL) WITH (fillfactor = 80);

CREATE TABLE usage.key_last_used (
    workspace_id text COLLATE "C" NOT NULL,
    key_id       text COLLATE "C" NOT NULL,
    last_at      bigint NOT NULL,
    PRIMARY KEY (workspace_id, key_id)
) WITH (fillfactor = 70);

GRANT USAGE ON SCHEMA usage TO keyledger_usage;
GRANT SELECT, INSERT, UPDATE ON
    usage.progress, usage.use_minute, usage.use_hour, usage.use_day, usage.key_last_used TO keyledger_usage;
