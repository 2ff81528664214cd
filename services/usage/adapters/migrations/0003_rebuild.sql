-- Rebuilding a table of counters beside the one in use: made with the same columns, rules, indexes, settings and
-- rights, filled while the old one serves, then given the old one's name. Only the owner may.
--
-- A statement that waits for the renamed table, and a plan that was cached for it, look the name up again and
-- find the new one; a test appends all the while. A transaction of one fixed snapshot that first touches the
-- table after the change sees the new one as it was filled before that snapshot: such a reader takes
-- ACCESS SHARE on it first.

SET LOCAL ROLE keyledger_owner;

CREATE FUNCTION usage.make_beside(original regclass, new_name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target text := (SELECT format('%I.%I', relnamespace::regnamespace::name, new_name)
                      FROM pg_class WHERE oid = original);
    found  record;
BEGIN
    -- what could not be carried over must not be lost unseen
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = original AND NOT tgisinternal)
       OR EXISTS (SELECT FROM pg_constraint WHERE contype = 'f' AND original IN (conrelid, confrelid))
       OR EXISTS (SELECT FROM pg_depend WHERE refclassid = 'pg_class'::regclass AND refobjid = original
                   AND classid IN ('pg_rewrite'::regclass, 'pg_proc'::regclass))
       OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = original AND attacl IS NOT NULL)
    THEN
        RAISE EXCEPTION '% has triggers, foreign keys, views or column rights and cannot be replaced', original
            USING ERRCODE = 'dependent_objects_still_exist';
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %s', target);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', target, original);
    FOR found IN SELECT unnest(reloptions) AS option FROM pg_class WHERE oid = original LOOP
        EXECUTE format('ALTER TABLE %s SET (%s)', target, found.option);
    END LOOP;
    FOR found IN SELECT a.privilege_type,
                        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS who
                   FROM pg_class c, aclexplode(c.relacl) a
                  WHERE c.oid = original AND a.grantee <> c.relowner LOOP
        EXECUTE format('GRANT %s ON %s TO %s', found.privilege_type, target, found.who);
    END LOOP;
    FOR found IN SELECT p.* FROM pg_policies p JOIN pg_class c
                     ON c.relname = p.tablename AND c.relnamespace::regnamespace::name = p.schemaname
                  WHERE c.oid = original LOOP
        EXECUTE format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', found.policyname, target, found.permissive,
                       found.cmd, (SELECT string_agg(CASE r WHEN 'public' THEN 'PUBLIC' ELSE quote_ident(r) END, ', ')
                                     FROM unnest(found.roles) r))
                || coalesce(' USING (' || found.qual || ')', '')
                || coalesce(' WITH CHECK (' || found.with_check || ')', '');
    END LOOP;
    FOR found IN SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = original LOOP
        IF found.relrowsecurity THEN EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', target); END IF;
        IF found.relforcerowsecurity THEN EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', target); END IF;
    END LOOP;
END $$;

-- Give `replacement` the name of `original` and of its indexes; the old table is then `<name>_before`.
CREATE FUNCTION usage.take_place(original regclass, replacement regclass) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    place text := (SELECT relnamespace::regnamespace::name FROM pg_class WHERE oid = original);
    own   text := (SELECT relname FROM pg_class WHERE oid = original);
    found record;
BEGIN
    EXECUTE format('LOCK TABLE %s, %s IN ACCESS EXCLUSIVE MODE', original, replacement);
    EXECUTE format('DROP TABLE IF EXISTS %I.%I', place, own || '_before');
    FOR found IN
        WITH indexes AS (
            SELECT i.indrelid, c.relname, i.indisunique, i.indisprimary,
                   substring(pg_get_indexdef(i.indexrelid) FROM ' USING .*') AS definition
              FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
             WHERE i.indrelid IN (original, replacement))
        SELECT o.relname AS old, r.relname AS new FROM indexes o JOIN indexes r
            USING (indisunique, indisprimary, definition)
         WHERE o.indrelid = original AND r.indrelid = replacement LOOP
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', place, found.old, left(found.old, 56) || '_before');
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', place, found.new, found.old);
    END LOOP;
    EXECUTE format('ALTER TABLE %s RENAME TO %I', original, own || '_before');
    EXECUTE format('ALTER TABLE %s RENAME TO %I', replacement, own);
END $$;

REVOKE ALL ON FUNCTION usage.make_beside(regclass, text), usage.take_place(regclass, regclass) FROM PUBLIC;
