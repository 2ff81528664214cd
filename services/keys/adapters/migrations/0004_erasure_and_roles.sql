-- A workspace can be forgotten while the chain still verifies, and people may read under row security.
--
-- Deleting is an event like any other. The transaction that appends it destroys the workspace's data key and
-- its state, and from then on no event of that workspace is let in. Everything else goes in small steps
-- afterwards; the row in `erasure` says how far they are, so that a crash only interrupts them.

SET LOCAL ROLE keyledger_owner;

-- A deleted workspace, for ever, and how much of it is erased.
CREATE TABLE ledger.erasure (
    workspace_id text   COLLATE "C" PRIMARY KEY,
    position     bigint NOT NULL,                -- of its `workspace_deleted`
    marker       bigint,                         -- position in the use log that tells the usage service
    swept        bigint NOT NULL DEFAULT 0,      -- use batches up to here hold no record of it
    rows_gone    boolean NOT NULL DEFAULT false,
    purged       boolean NOT NULL DEFAULT false  -- its subjects are purged from the stream
);
CREATE INDEX erasure_by_position ON ledger.erasure (position);
CREATE INDEX erasure_to_do ON ledger.erasure (position) WHERE NOT (rows_gone AND purged);
CREATE UNIQUE INDEX erasure_by_marker ON ledger.erasure (marker);
CREATE INDEX idempotency_by_position ON ledger.idempotency (position);

-- No event of a deleted workspace, whoever appends it: whoever waited for the head's lock meanwhile gets here
-- after the deletion is committed. KL404 is told apart by its class and not by its words.
CREATE FUNCTION ledger.guard_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM ledger.erasure e WHERE e.workspace_id = NEW.workspace_id) THEN
        RAISE EXCEPTION 'the workspace is deleted' USING ERRCODE = 'KL404';
    END IF;
    IF NEW.type = 'workspace_deleted' THEN
        INSERT INTO ledger.erasure (workspace_id, position) VALUES (NEW.workspace_id, NEW.position);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER event_of_no_deleted_workspace BEFORE INSERT ON ledger.event
    FOR EACH ROW EXECUTE FUNCTION ledger.guard_deleted();

-- At the commit, since the append writes the state only after the event.
CREATE FUNCTION ledger.forget_workspace() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
BEGIN
    DELETE FROM workspace_key k WHERE k.workspace_id = NEW.workspace_id;
    DELETE FROM state s WHERE s.stream_id = NEW.workspace_id;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER event_deletes_workspace AFTER INSERT ON ledger.event DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.type = 'workspace_deleted') EXECUTE FUNCTION ledger.forget_workspace();

-- Nor an answer about a deleted workspace: a command that finds nothing to do has no event to be refused.
CREATE FUNCTION ledger.guard_answer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM ledger.event e JOIN ledger.erasure d ON d.workspace_id = e.workspace_id
                WHERE e.position = NEW.position) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER answer_of_no_deleted_workspace BEFORE INSERT ON ledger.idempotency
    FOR EACH ROW EXECUTE FUNCTION ledger.guard_answer();

-- Nor uses of its keys, which may come late from a verifier's spool. The lock on `use_head` is taken before the
-- records are written, so this sees every deletion whose marker stands before them.
CREATE FUNCTION ledger.drop_late_uses() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM added a JOIN erasure d ON d.workspace_id = a.workspace_id) THEN
        DELETE FROM use_record r USING erasure d, (SELECT DISTINCT position FROM added) a
         WHERE r.position = a.position AND d.workspace_id = r.workspace_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER use_record_of_no_deleted_workspace AFTER INSERT ON ledger.use_record
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ledger.drop_late_uses();

-- The next step of the oldest erasure that nobody else works on: at most `most` rows, or use batches looked
-- through. Answers whether there may be more to do.
CREATE FUNCTION ledger.erase_some(most integer, now bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
    job  erasure%ROWTYPE;
    gone integer;
    head use_head%ROWTYPE;
BEGIN
    SELECT * INTO job FROM erasure e WHERE NOT e.rows_gone ORDER BY e.position LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN RETURN false; END IF;

    IF job.marker IS NULL THEN
        UPDATE use_head h SET position = h.position + 1, at = greatest(h.at, now) RETURNING * INTO head;
        INSERT INTO use_batch VALUES (head.position, 'erasure:' || job.workspace_id, 0, head.at);
        UPDATE erasure SET marker = head.position WHERE workspace_id = job.workspace_id;
        RETURN true;
    END IF;

    DELETE FROM foreign_token f WHERE f.name IN (
        SELECT name FROM foreign_token WHERE workspace_id = job.workspace_id LIMIT most);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN RETURN true; END IF;
    DELETE FROM state s WHERE s.stream_id IN (
        SELECT stream_id FROM state WHERE kind = 'key' AND workspace_id = job.workspace_id LIMIT most);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN RETURN true; END IF;
    DELETE FROM idempotency i WHERE i.id IN (
        SELECT a.id FROM idempotency a JOIN event e ON e.position = a.position
         WHERE e.workspace_id = job.workspace_id LIMIT most);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN RETURN true; END IF;

    job.swept := least(job.swept + most, job.marker);
    DELETE FROM use_record r WHERE r.workspace_id = job.workspace_id
       AND r.position > job.swept - most AND r.position <= job.swept;
    UPDATE erasure SET swept = job.swept, rows_gone = job.swept = job.marker
     WHERE workspace_id = job.workspace_id;
    RETURN true;
END $$;

-- The stream no longer holds what was told of this workspace.
CREATE FUNCTION ledger.stream_purged(workspace text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
    UPDATE erasure SET purged = true WHERE workspace_id = workspace
$$;

REVOKE ALL ON FUNCTION ledger.guard_deleted(), ledger.forget_workspace(), ledger.guard_answer(),
    ledger.drop_late_uses(), ledger.erase_some(integer, bigint), ledger.stream_purged(text) FROM PUBLIC;
GRANT SELECT ON ledger.erasure TO keyledger_keys;
GRANT EXECUTE ON FUNCTION ledger.erase_some(integer, bigint), ledger.stream_purged(text) TO keyledger_keys;

-- Who reads what. A login of the operator's own is granted one of two roles:
--
--   keyledger_reader    sees one workspace, the one that its session names in `keyledger.workspace_id`, and
--                       nothing while none is named; no digest, no proof, nothing sealed
--   keyledger_operator  sees every workspace, and everything but wrapped data keys and kept answers
--
-- The setting is the session's own: it keeps a query from forgetting its tenant, it does not lock a person in.
-- Row security is not FORCED upon the owner: the functions above are the owner's and need every row, and no
-- one can log in as the owner. The services' queries all name a workspace where one is meant, or follow the
-- whole log, so their policy lets every row through.

GRANT USAGE ON SCHEMA ledger TO keyledger_reader, keyledger_operator;

CREATE FUNCTION ledger.named_workspace() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
    RETURN nullif(current_setting('keyledger.workspace_id', true), '');
REVOKE ALL ON FUNCTION ledger.named_workspace() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.named_workspace() TO keyledger_reader, keyledger_operator;

ALTER TABLE ledger.event ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger.stream ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger.state ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger.use_record ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger.erasure ENABLE ROW LEVEL SECURITY;

CREATE POLICY all_rows ON ledger.event FOR SELECT TO keyledger_keys, keyledger_operator USING (true);
CREATE POLICY all_rows ON ledger.stream FOR SELECT TO keyledger_keys, keyledger_operator USING (true);
CREATE POLICY all_rows ON ledger.state FOR SELECT TO keyledger_keys, keyledger_operator USING (true);
CREATE POLICY all_rows ON ledger.use_record FOR SELECT TO keyledger_keys, keyledger_operator USING (true);
CREATE POLICY all_rows ON ledger.erasure FOR SELECT TO keyledger_keys, keyledger_operator USING (true);

CREATE POLICY one_workspace ON ledger.event FOR SELECT TO keyledger_reader
    USING (workspace_id = ledger.named_workspace());
CREATE POLICY one_workspace ON ledger.stream FOR SELECT TO keyledger_reader
    USING (workspace_id = ledger.named_workspace());
CREATE POLICY one_workspace ON ledger.use_record FOR SELECT TO keyledger_reader
    USING (workspace_id = ledger.named_workspace());

-- Without `data`, which holds digests.
GRANT SELECT (position, stream_id, version, type, schema_version, workspace_id, actor, request_id, at,
              command_id, hash) ON ledger.event TO keyledger_reader;
GRANT SELECT ON ledger.stream, ledger.use_record TO keyledger_reader;
-- Keys as people see them: a state's body holds digests and proofs, so a reader has no right to the table. The
-- function names the tenant itself.
CREATE FUNCTION ledger.keys_of_workspace() RETURNS TABLE (
    key_id text, workspace_id text, version bigint, changed_position bigint, created_position bigint, name text,
    environment text, scopes jsonb, enabled boolean, created_at bigint, created_by text, expires_at bigint,
    revoked_at bigint, allowed_ips jsonb, rate_limit jsonb, external_id text, metadata jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
    SELECT s.stream_id, s.workspace_id, s.version, s.position, s.created_position, s.body ->> 'name',
           s.body ->> 'environment', s.body -> 'scopes', coalesce((s.body ->> 'enabled')::boolean, true),
           (s.body ->> 'created_at')::bigint, s.body ->> 'created_by', (s.body ->> 'expires_at')::bigint,
           (s.body ->> 'revoked_at')::bigint, s.body -> 'allowed_ips', s.body -> 'rate_limit',
           s.body ->> 'external_id', s.body -> 'metadata'
      FROM state s WHERE s.kind = 'key' AND s.workspace_id = named_workspace()
$$;
REVOKE ALL ON FUNCTION ledger.keys_of_workspace() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.keys_of_workspace() TO keyledger_reader, keyledger_operator;

GRANT SELECT ON ledger.log_head, ledger.epoch, ledger.stream, ledger.event, ledger.state, ledger.erasure,
    ledger.use_head, ledger.use_source, ledger.use_batch, ledger.use_record TO keyledger_operator;
