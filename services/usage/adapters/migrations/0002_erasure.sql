-- Counters of a deleted workspace go, and people may read counters under row security.

SET LOCAL ROLE keyledger_owner;

-- A workspace that the use log says is deleted; its counters are removed in small steps after that.
CREATE TABLE usage.erasure (
    workspace_id text    COLLATE "C" PRIMARY KEY,
    position     bigint  NOT NULL,
    done         boolean NOT NULL DEFAULT false
);
CREATE INDEX erasure_to_do ON usage.erasure (position) WHERE NOT done;
GRANT SELECT, INSERT, UPDATE ON usage.erasure TO keyledger_usage;
GRANT DELETE ON usage.use_minute, usage.use_hour, usage.use_day, usage.key_last_used TO keyledger_usage;

-- As in the log: a reader sees the workspace that `keyledger.workspace_id` names, an operator every one.
GRANT USAGE ON SCHEMA usage TO keyledger_reader, keyledger_operator;
GRANT SELECT ON usage.use_minute, usage.use_hour, usage.use_day, usage.key_last_used
    TO keyledger_reader, keyledger_operator;
GRANT SELECT ON usage.progress TO keyledger_operator;

DO $$
DECLARE
    counters text;
BEGIN
    FOREACH counters IN ARRAY ARRAY['use_minute', 'use_hour', 'use_day', 'key_last_used'] LOOP
        EXECUTE format('ALTER TABLE usage.%I ENABLE ROW LEVEL SECURITY', counters);
        EXECUTE format('CREATE POLICY all_rows ON usage.%I TO keyledger_usage USING (true) WITH CHECK (true)',
                       counters);
        EXECUTE format('CREATE POLICY every_workspace ON usage.%I FOR SELECT TO keyledger_operator USING (true)',
                       counters);
        EXECUTE format('CREATE POLICY one_workspace ON usage.%I FOR SELECT TO keyledger_reader USING '
                       '(workspace_id = nullif(current_setting(''keyledger.workspace_id'', true), ''''))',
                       counters);
    END LOOP;
END $$;
