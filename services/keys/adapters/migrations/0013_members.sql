-- Members of workspaces, and ended sessions. Who is a member stands in the workspace's state, as its events say;
-- a table beside it, kept by whatever writes a state, answers what a user may do where, and where at all.

SET LOCAL ROLE keyledger_owner;

CREATE TABLE ledger.membership (
    workspace_id text   COLLATE "C" NOT NULL,
    user_id      text   COLLATE "C" NOT NULL,
    role         text   NOT NULL,
    since        bigint NOT NULL,               -- µs
    added_by     text   COLLATE "C" NOT NULL,
    added        bigint NOT NULL,               -- the version, in the workspace's stream, of the event
    PRIMARY KEY (workspace_id, user_id)
);
CREATE INDEX membership_by_user ON ledger.membership (user_id);

-- The members of this workspace as a state's body has them.
CREATE FUNCTION ledger.members_in(workspace text, body jsonb) RETURNS SETOF ledger.membership
LANGUAGE sql IMMUTABLE AS $$
    SELECT workspace, m.key, m.value ->> 'role', (m.value ->> 'since')::bigint, m.value ->> 'added_by',
           (m.value ->> 'added')::bigint
      FROM jsonb_each(coalesce(body -> 'members', '{}')) m
$$;

-- Bring the table to what the state has; `body` is null when the state is gone.
CREATE FUNCTION ledger.set_members(workspace text, body jsonb) RETURNS void
LANGUAGE sql SET search_path = ledger, pg_temp AS $$
    DELETE FROM membership m WHERE m.workspace_id = workspace
       AND NOT coalesce(body -> 'members' ? m.user_id, false);
    INSERT INTO membership AS m SELECT * FROM members_in(workspace, body)
        ON CONFLICT (workspace_id, user_id) DO UPDATE
            SET role = excluded.role, since = excluded.since, added_by = excluded.added_by, added = excluded.added
          WHERE m IS DISTINCT FROM excluded;
$$;

-- In the transaction that writes the state, whoever writes it: an append, a deletion, a rebuild. Appends come
-- one after the other, since each holds the head's lock, so no two can pass the bound together.
CREATE FUNCTION ledger.follow_members() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' AND EXISTS (
        SELECT FROM ledger.members_in(NEW.stream_id, NEW.body) n
         WHERE n.added_by = n.user_id AND 50 <= (
               SELECT count(*) FROM ledger.membership m WHERE m.user_id = n.user_id AND m.added_by = n.user_id
                  AND m.workspace_id <> NEW.stream_id)) THEN
        RAISE EXCEPTION 'the user has made as many workspaces as one may' USING ERRCODE = 'KL409';
    END IF;
    PERFORM ledger.set_members(coalesce(NEW.stream_id, OLD.stream_id), NEW.body);
    RETURN NULL;
END $$;
CREATE TRIGGER state_brings_members AFTER INSERT ON ledger.state
    FOR EACH ROW WHEN (NEW.kind = 'workspace' AND NEW.body ? 'members')
    EXECUTE FUNCTION ledger.follow_members();
CREATE TRIGGER state_changes_members AFTER UPDATE ON ledger.state
    FOR EACH ROW WHEN (NEW.kind = 'workspace' AND NEW.body -> 'members' IS DISTINCT FROM OLD.body -> 'members')
    EXECUTE FUNCTION ledger.follow_members();
CREATE TRIGGER state_takes_members AFTER DELETE ON ledger.state
    FOR EACH ROW WHEN (OLD.kind = 'workspace' AND OLD.body ? 'members')
    EXECUTE FUNCTION ledger.follow_members();

-- The append as it was in 0008, in one thing another: a stream is created where its first event stands. Until
-- now no command had several events, so its end was the same.
DO $$
DECLARE
    text_now text := pg_get_functiondef('ledger.append(ledger.command_in[], ledger.event_in[])'::regprocedure);
    text_new text := replace(text_now, 'ends[origins[c.ordinal]]', 'starts[origins[c.ordinal]] + 1');
BEGIN
    IF length(text_new) - length(text_now) <> 2 * (length('starts + 1') - length('ends')) THEN
        RAISE EXCEPTION 'ledger.append is not the one of 0008';
    END IF;
    EXECUTE text_new;
END $$;

-- Sessions that are over, for longer than any token of theirs can be good.
CREATE TABLE ledger.ended_session (
    session_id text   COLLATE "C" PRIMARY KEY,
    until      bigint NOT NULL                  -- µs
);
CREATE INDEX ended_session_by_age ON ledger.ended_session (until);

CREATE FUNCTION ledger.end_session(session text, kept_until bigint) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
    INSERT INTO ended_session AS e VALUES (session, kept_until)
        ON CONFLICT (session_id) DO UPDATE SET until = greatest(e.until, excluded.until)
$$;

-- At most 1,000 a call, so that it never holds a lock for long.
CREATE FUNCTION ledger.forget_sessions(now bigint) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
    WITH gone AS (
        DELETE FROM ended_session WHERE session_id IN (
            SELECT session_id FROM ended_session WHERE until <= now LIMIT 1000 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*)::integer FROM gone
$$;

REVOKE ALL ON FUNCTION ledger.members_in(text, jsonb), ledger.set_members(text, jsonb), ledger.follow_members(),
    ledger.end_session(text, bigint), ledger.forget_sessions(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.end_session(text, bigint), ledger.forget_sessions(bigint) TO keyledger_keys;
GRANT SELECT ON ledger.membership TO keyledger_keys, keyledger_operator, keyledger_reader;
GRANT SELECT ON ledger.ended_session TO keyledger_keys;

ALTER TABLE ledger.membership ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON ledger.membership FOR SELECT TO keyledger_keys, keyledger_operator USING (true);
CREATE POLICY one_workspace ON ledger.membership FOR SELECT TO keyledger_reader
    USING (workspace_id = ledger.named_workspace());
