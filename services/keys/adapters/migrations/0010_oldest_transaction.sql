-- What keeps Postgres from cleaning up, and other writers waiting: how long the oldest transaction has been open.
--
-- Others' transactions are shown only to members of pg_read_all_stats. The owner becomes one, as whom nobody can
-- log in; the run-time role learns of them by this function alone. An administrator who may not grant that leaves
-- the function half blind, and it says so.

DO $$
BEGIN
    IF NOT pg_has_role('keyledger_owner', 'pg_read_all_stats', 'MEMBER') THEN
        GRANT pg_read_all_stats TO keyledger_owner;
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE WARNING 'grant pg_read_all_stats to keyledger_owner, or old transactions are not seen';
END $$;

SET LOCAL ROLE keyledger_owner;

-- One row, of nulls when nothing is open. An autovacuum holds nothing back, however long it takes; a slot does
-- from when its reader left (told from Postgres 17 on).
CREATE FUNCTION ledger.oldest_transaction() RETURNS TABLE (
    kind text, name text, pid integer, seconds double precision, sees_all boolean)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT oldest.kind, oldest.name, oldest.pid,
           extract(epoch FROM clock_timestamp() - oldest.since)::double precision,
           pg_has_role('pg_read_all_stats', 'USAGE')
      FROM (SELECT) one LEFT JOIN (
        SELECT 'transaction' AS kind, a.application_name AS name, a.pid, a.xact_start AS since
          FROM pg_stat_activity a
         WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
           AND a.backend_type <> 'autovacuum worker'
        UNION ALL
        SELECT 'prepared transaction', p.gid, NULL, p.prepared
          FROM pg_prepared_xacts p WHERE p.database = current_database()
        UNION ALL
        SELECT 'replication slot', s.slot_name::text, NULL, (to_jsonb(s) ->> 'inactive_since')::timestamptz
          FROM pg_replication_slots s
         WHERE NOT s.active AND coalesce(s.xmin, s.catalog_xmin) IS NOT NULL
           AND to_jsonb(s) ->> 'inactive_since' IS NOT NULL
         ORDER BY since LIMIT 1
      ) oldest ON true
$$;

REVOKE ALL ON FUNCTION ledger.oldest_transaction() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.oldest_transaction() TO keyledger_keys, keyledger_operator;
