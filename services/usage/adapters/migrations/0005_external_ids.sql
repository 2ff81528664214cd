-- Counters by external id, counters of whole workspaces, and what retention has left of each.

SET LOCAL ROLE keyledger_owner;

DO $$
DECLARE
    size text;
BEGIN
    FOREACH size IN ARRAY ARRAY['minute', 'hour', 'day'] LOOP
        -- The external id that the key had at the time of use; empty without one. The key's index has the order
        -- of the answers, so that a page is read from its start to its end and no further.
        EXECUTE format($sql$
            ALTER TABLE usage.use_%1$s ADD COLUMN external_id text COLLATE "C" NOT NULL DEFAULT '',
                DROP CONSTRAINT use_%1$s_pkey;
            ALTER TABLE usage.use_%1$s ADD CONSTRAINT use_%1$s_pkey
                PRIMARY KEY (workspace_id, bucket, key_id, outcome, environment, external_id);
        $sql$, size);
        -- All keys of a workspace together: a month of it by the hour must not read every key's rows.
        EXECUTE format($sql$
            CREATE TABLE usage.all_%1$s (
                workspace_id text COLLATE "C" NOT NULL,
                bucket       bigint NOT NULL,
                outcome      text COLLATE "C" NOT NULL,
                environment  text COLLATE "C" NOT NULL,
                count        bigint NOT NULL,
                cost         bigint NOT NULL,
                PRIMARY KEY (workspace_id, bucket, outcome, environment)
            ) WITH (fillfactor = 80);
            INSERT INTO usage.all_%1$s
                SELECT workspace_id, bucket, outcome, environment, sum(count), sum(cost)
                  FROM usage.use_%1$s GROUP BY 1, 2, 3, 4;
            GRANT SELECT, INSERT, UPDATE, DELETE ON usage.all_%1$s TO keyledger_usage;
            GRANT SELECT ON usage.all_%1$s TO keyledger_reader, keyledger_operator;
            ALTER TABLE usage.all_%1$s ENABLE ROW LEVEL SECURITY;
            CREATE POLICY all_rows ON usage.all_%1$s TO keyledger_usage USING (true) WITH CHECK (true);
            CREATE POLICY every_workspace ON usage.all_%1$s FOR SELECT TO keyledger_operator USING (true);
            CREATE POLICY one_workspace ON usage.all_%1$s FOR SELECT TO keyledger_reader
                USING (workspace_id = nullif(current_setting('keyledger.workspace_id', true), ''));
        $sql$, size);
    END LOOP;
END $$;

-- Buckets that start before this (µs) were dropped; days never are.
CREATE TABLE usage.kept_from (
    granularity text   PRIMARY KEY CHECK (granularity IN ('minute', 'hour')),
    bucket      bigint NOT NULL
);
GRANT SELECT ON usage.kept_from TO keyledger_usage, keyledger_operator, keyledger_reader;

-- For people who ask in SQL: times as times, sums as they are answered. Whoever asks sees what its role may, as
-- in the tables. Functions stand between, since a table that a view is made of cannot be rebuilt and swapped.
DO $$
DECLARE
    size text;
BEGIN
    FOREACH size IN ARRAY ARRAY['minute', 'hour', 'day'] LOOP
        EXECUTE format($sql$
            CREATE FUNCTION usage.rows_by_%1$s() RETURNS TABLE (
                workspace_id text, start timestamptz, key_id text, external_id text, environment text, outcome text,
                count bigint, cost bigint)
            LANGUAGE sql STABLE PARALLEL SAFE AS $body$
                SELECT workspace_id, to_timestamp(bucket / 1000000), key_id, nullif(external_id, ''), environment,
                       outcome, count, cost
                  FROM usage.use_%1$s
            $body$;
            CREATE VIEW usage.by_%1$s AS SELECT * FROM usage.rows_by_%1$s();
            REVOKE ALL ON FUNCTION usage.rows_by_%1$s() FROM PUBLIC;
            GRANT EXECUTE ON FUNCTION usage.rows_by_%1$s() TO keyledger_reader, keyledger_operator;
            GRANT SELECT ON usage.by_%1$s TO keyledger_reader, keyledger_operator;
            CREATE FUNCTION usage.rows_of_workspace_by_%1$s() RETURNS TABLE (
                workspace_id text, start timestamptz, environment text, outcome text, count bigint, cost bigint)
            LANGUAGE sql STABLE PARALLEL SAFE AS $body$
                SELECT workspace_id, to_timestamp(bucket / 1000000), environment, outcome, count, cost
                  FROM usage.all_%1$s
            $body$;
            CREATE VIEW usage.of_workspace_by_%1$s AS SELECT * FROM usage.rows_of_workspace_by_%1$s();
            REVOKE ALL ON FUNCTION usage.rows_of_workspace_by_%1$s() FROM PUBLIC;
            GRANT EXECUTE ON FUNCTION usage.rows_of_workspace_by_%1$s() TO keyledger_reader, keyledger_operator;
            GRANT SELECT ON usage.of_workspace_by_%1$s TO keyledger_reader, keyledger_operator;
        $sql$, size);
    END LOOP;
END $$;

CREATE FUNCTION usage.rows_of_last_use() RETURNS TABLE (workspace_id text, key_id text, last_used_at timestamptz)
LANGUAGE sql STABLE PARALLEL SAFE AS $body$
    SELECT workspace_id, key_id, to_timestamp(last_at / 1000000.0) FROM usage.key_last_used
$body$;
CREATE VIEW usage.last_use AS SELECT * FROM usage.rows_of_last_use();
REVOKE ALL ON FUNCTION usage.rows_of_last_use() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION usage.rows_of_last_use() TO keyledger_reader, keyledger_operator;
GRANT SELECT ON usage.last_use TO keyledger_reader, keyledger_operator;
