-- Views that find a stretch of time by an index, and one of the limits whose cells run.

SET LOCAL ROLE keyledger_owner;

-- µs since the Unix epoch, the unit of a bucket: `bucket >= usage.micros('2026-11-01Z')` is found by the index of
-- each table, under row security too, where a range of `start` is not: only the workspace's rows are.
CREATE FUNCTION usage.micros(moment timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT (extract(epoch FROM moment) * 1000000)::bigint
$$;
REVOKE ALL ON FUNCTION usage.micros(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION usage.micros(timestamptz) TO keyledger_reader, keyledger_operator;

DO $$
DECLARE
    size text;
    of   text;
BEGIN
    FOREACH size IN ARRAY ARRAY['minute', 'hour', 'day'] LOOP
        -- Rows lie in the order of their time. An index of a few pages is made in the time of one reading, and
        -- costs a fold next to nothing, which a tree of every row would not.
        FOREACH of IN ARRAY ARRAY['use', 'all'] LOOP
            EXECUTE format($sql$
                CREATE INDEX %1$s_%2$s_by_start ON usage.%1$s_%2$s
                    USING brin (to_timestamp(bucket / 1000000)) WITH (autosummarize = on)
            $sql$, of, size);
        END LOOP;
        -- The views stay, since people may have made others of them; a function's columns cannot be changed.
        EXECUTE format($sql$
            CREATE FUNCTION usage.counters_by_%1$s() RETURNS TABLE (
                workspace_id text, start timestamptz, key_id text, external_id text, environment text, outcome text,
                count bigint, cost bigint, bucket bigint)
            LANGUAGE sql STABLE PARALLEL SAFE AS $body$
                SELECT workspace_id, to_timestamp(bucket / 1000000), key_id, nullif(external_id, ''), environment,
                       outcome, count, cost, bucket
                  FROM usage.use_%1$s
            $body$;
            REVOKE ALL ON FUNCTION usage.counters_by_%1$s() FROM PUBLIC;
            GRANT EXECUTE ON FUNCTION usage.counters_by_%1$s() TO keyledger_reader, keyledger_operator;
            CREATE OR REPLACE VIEW usage.by_%1$s AS SELECT * FROM usage.counters_by_%1$s();
            DROP FUNCTION usage.rows_by_%1$s();
            CREATE FUNCTION usage.counters_of_workspace_by_%1$s() RETURNS TABLE (
                workspace_id text, start timestamptz, environment text, outcome text, count bigint, cost bigint,
                bucket bigint)
            LANGUAGE sql STABLE PARALLEL SAFE AS $body$
                SELECT workspace_id, to_timestamp(bucket / 1000000), environment, outcome, count, cost, bucket
                  FROM usage.all_%1$s
            $body$;
            REVOKE ALL ON FUNCTION usage.counters_of_workspace_by_%1$s() FROM PUBLIC;
            GRANT EXECUTE ON FUNCTION usage.counters_of_workspace_by_%1$s() TO keyledger_reader, keyledger_operator;
            CREATE OR REPLACE VIEW usage.of_workspace_by_%1$s AS SELECT * FROM usage.counters_of_workspace_by_%1$s();
            DROP FUNCTION usage.rows_of_workspace_by_%1$s();
        $sql$, size);
    END LOOP;
END $$;

-- The cells that run of quotas and of limits over more than a minute; those of a minute and less are in the
-- granter's memory only, and `GET …/rate-limit` shows them. `window` is in seconds, or day or month; `admitted`
-- what verifiers said that they let in, `granted` the most that they may have.
CREATE FUNCTION usage.rows_of_limits() RETURNS TABLE (
    holder text, "window" text, start timestamptz, reset timestamptz, "limit" bigint, admitted bigint, granted bigint,
    remaining bigint)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT holder, window_, to_timestamp(start_at), to_timestamp(ends_at), most, spent, charged,
           greatest(0, most - spent)
      FROM usage.grant_cell
     WHERE ends_at > extract(epoch FROM now())::bigint AND start_at <= extract(epoch FROM now())::bigint
$$;
CREATE VIEW usage.limits AS SELECT * FROM usage.rows_of_limits();
REVOKE ALL ON FUNCTION usage.rows_of_limits() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION usage.rows_of_limits() TO keyledger_operator;
GRANT SELECT ON usage.limits TO keyledger_operator;
