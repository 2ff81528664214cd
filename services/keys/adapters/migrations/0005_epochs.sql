-- A Postgres that went back in time begins another telling of the log. What the older one refused stays refused
-- until an operator has looked at it: the list stands in the log, and in a table for the key service itself.

SET LOCAL ROLE keyledger_owner;

ALTER TABLE ledger.epoch ADD COLUMN accepted_at bigint;

-- The lost denials that are in force: what `epoch_started` told and no `epoch_accepted` has taken away.
CREATE TABLE ledger.lost_denial (
    epoch_number integer NOT NULL,
    workspace_id text    COLLATE "C" NOT NULL,
    key_id       text    COLLATE "C",           -- null: every key of the workspace
    what         text    NOT NULL,
    secret       bigint,                        -- the version of the event that made the secret
    since        bigint                         -- µs
);
CREATE INDEX lost_denial_by_key ON ledger.lost_denial (key_id);

-- Verifiers that got an answer about the head, and so may go on answering from it for a while: known to every
-- key service, and after a restart too. `seen` is at most some seconds older than the last answer.
CREATE TABLE ledger.follower (
    name          text   COLLATE "C" PRIMARY KEY,
    seen          bigint NOT NULL,              -- µs
    max_staleness bigint NOT NULL               -- µs
) WITH (fillfactor = 50);

-- The head, and with it the right to be the only one that writes until this transaction ends.
CREATE FUNCTION ledger.lock_head() RETURNS SETOF ledger.log_head
LANGUAGE sql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$ SELECT * FROM log_head FOR UPDATE $$;

-- Record one event of a stream that has no state, under the head that the caller has locked.
CREATE FUNCTION ledger.record_plain(
    stream_name text, workspace text, tag text, schema smallint, who text, request text, bytes bytea, now bigint
) RETURNS bigint LANGUAGE plpgsql SET search_path = ledger, pg_temp AS $$
DECLARE
    head log_head%ROWTYPE;
    ver  bigint;
BEGIN
    SELECT * INTO STRICT head FROM log_head;
    INSERT INTO stream (id, workspace_id, version) VALUES (stream_name, workspace, 1)
        ON CONFLICT (id) DO UPDATE SET version = stream.version + 1 RETURNING version INTO ver;
    head.position := head.position + 1;
    head.at := greatest(now, head.at);
    head.hash := chain_hash(head.hash, head.epoch_line, head.position, stream_name, ver, tag, schema, workspace,
                            who, request, head.at, bytes);
    INSERT INTO event (position, stream_id, version, type, schema_version, workspace_id, actor, request_id, at,
                       command_id, data, hash)
        VALUES (head.position, stream_name, ver, tag, schema, workspace, who, request, head.at,
                gen_random_uuid(), bytes, head.hash);
    UPDATE log_head h SET position = head.position, hash = head.hash, at = head.at;
    RETURN head.position;
END $$;

-- Begin the epoch after `seen`, unless someone already did: no row then. `told` are the data of its
-- `epoch_started` events, recorded as the first of the new line; without a system workspace there are none.
DROP FUNCTION ledger.begin_epoch(bytea, bigint);
CREATE FUNCTION ledger.begin_epoch(seen bytea, new_line bytea, workspace text, schema smallint, told bytea[],
                                   now bigint)
RETURNS TABLE (epoch_number integer, head_position bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
    head  log_head%ROWTYPE;
    bytes bytea;
BEGIN
    SELECT * INTO head FROM log_head FOR UPDATE;
    IF head.epoch_line <> seen THEN RETURN; END IF;
    head.epoch_number := head.epoch_number + 1;
    INSERT INTO epoch (number, line, base_position, base_hash, at)
        VALUES (head.epoch_number, new_line, head.position, head.hash, greatest(now, head.at));
    UPDATE log_head h SET epoch_number = head.epoch_number, epoch_line = new_line;
    FOREACH bytes IN ARRAY told LOOP
        head.position := record_plain('epochs', workspace, 'epoch_started', schema, 'system', 'epoch', bytes, now);
        INSERT INTO lost_denial
            SELECT head.epoch_number, l.workspace_id, l.key_id, l.what, l.secret, l.since
              FROM jsonb_to_recordset(coalesce(convert_from(bytes, 'UTF8')::jsonb -> 'lost', '[]')) AS l (
                   workspace_id text, key_id text, what text, secret bigint, since bigint);
    END LOOP;
    RETURN QUERY SELECT head.epoch_number, head.position;
END $$;

-- Let the log's own word count again. No row when `accepted` is not the epoch of now.
CREATE FUNCTION ledger.accept_epoch(accepted integer, workspace text, schema smallint, who text, request text,
                                    bytes bytea, now bigint)
RETURNS TABLE (head_position bigint, epoch_line bytea, accepted_at bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
    head log_head%ROWTYPE;
BEGIN
    SELECT * INTO head FROM log_head FOR UPDATE;
    IF head.epoch_number <> accepted THEN RETURN; END IF;
    PERFORM record_plain('epochs', workspace, 'epoch_accepted', schema, who, request, bytes, now);
    UPDATE epoch e SET accepted_at = greatest(now, head.at) WHERE e.number <= accepted AND e.accepted_at IS NULL;
    DELETE FROM lost_denial;
    RETURN QUERY SELECT h.position, h.epoch_line, h.at FROM log_head h;
END $$;

-- These verifiers were answered at these moments; those not heard of since `forget` are dropped.
CREATE FUNCTION ledger.note_followers(names text[], moments bigint[], stalenesses bigint[], forget bigint)
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
    INSERT INTO follower (name, seen, max_staleness)
        SELECT * FROM unnest(names, moments, stalenesses) AS told (name, seen, max_staleness) ORDER BY name
        ON CONFLICT (name) DO UPDATE SET seen = greatest(follower.seen, excluded.seen),
                                         max_staleness = excluded.max_staleness;
    DELETE FROM follower f WHERE f.seen + f.max_staleness < forget;
$$;

-- A verifier that stopped answers nobody any more.
CREATE FUNCTION ledger.forget_follower(gone text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$ DELETE FROM follower WHERE name = gone $$;

REVOKE ALL ON FUNCTION ledger.lock_head(),
    ledger.record_plain(text, text, text, smallint, text, text, bytea, bigint),
    ledger.begin_epoch(bytea, bytea, text, smallint, bytea[], bigint),
    ledger.accept_epoch(integer, text, smallint, text, text, bytea, bigint),
    ledger.note_followers(text[], bigint[], bigint[], bigint), ledger.forget_follower(text) FROM PUBLIC;
GRANT SELECT ON ledger.lost_denial, ledger.follower TO keyledger_keys;
GRANT EXECUTE ON FUNCTION ledger.lock_head(),
    ledger.begin_epoch(bytea, bytea, text, smallint, bytea[], bigint),
    ledger.accept_epoch(integer, text, smallint, text, text, bytea, bigint),
    ledger.note_followers(text[], bigint[], bigint[], bigint), ledger.forget_follower(text) TO keyledger_keys;
