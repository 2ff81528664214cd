-- The log: one table of events in commit order, one row that is its head, one function that appends.
--
-- Position order is commit order and has no holes, because the head's row is the last lock taken and is held
-- until the commit; a rollback gives the position back. Run-time roles may execute `append` and have no INSERT.

CREATE SCHEMA ledger AUTHORIZATION keyledger_owner;
SET LOCAL ROLE keyledger_owner;

CREATE TABLE ledger.log_head (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch_number integer NOT NULL,
    epoch_line   bytea   NOT NULL CHECK (octet_length(epoch_line) = 8),
    position     bigint  NOT NULL,
    hash         bytea   NOT NULL,
    at           bigint  NOT NULL
) WITH (fillfactor = 10);

INSERT INTO ledger.log_head (epoch_number, epoch_line, position, hash, at)
VALUES (1, substring(uuid_send(gen_random_uuid()) FROM 1 FOR 8), 0, decode(repeat('00', 32), 'hex'), 0);

-- Every telling of the log: events after `base_position` were hashed under this line.
CREATE TABLE ledger.epoch (
    number        integer PRIMARY KEY,
    line          bytea   NOT NULL UNIQUE,
    base_position bigint  NOT NULL,
    base_hash     bytea   NOT NULL,
    at            bigint  NOT NULL
);
INSERT INTO ledger.epoch (number, line, base_position, base_hash, at)
    SELECT epoch_number, epoch_line, position, hash, at FROM ledger.log_head;

CREATE TABLE ledger.stream (
    id           text COLLATE "C" PRIMARY KEY,
    workspace_id text   NOT NULL,
    version      bigint NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE ledger.event (
    position       bigint   PRIMARY KEY,
    stream_id      text     COLLATE "C" NOT NULL,
    version        bigint   NOT NULL,
    type           text     NOT NULL,
    schema_version smallint NOT NULL,
    workspace_id   text     COLLATE "C" NOT NULL,
    actor          text     NOT NULL,
    request_id     text     NOT NULL,
    at             bigint   NOT NULL,
    command_id     uuid     NOT NULL,
    data           bytea    NOT NULL,
    hash           bytea    NOT NULL,
    UNIQUE (stream_id, version)
);
CREATE INDEX event_by_workspace ON ledger.event (workspace_id, position);
CREATE INDEX event_by_command ON ledger.event (command_id);

CREATE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the log is append-only' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER event_is_append_only BEFORE UPDATE OR DELETE ON ledger.event
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_change();
CREATE TRIGGER event_is_not_truncated BEFORE TRUNCATE ON ledger.event
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change();

-- The current state of each stream, folded by the one who appended; for lists, look-ups and snapshots.
CREATE TABLE ledger.state (
    stream_id        text   COLLATE "C" PRIMARY KEY,
    kind             text   NOT NULL CHECK (kind IN ('key', 'workspace')),
    workspace_id     text   COLLATE "C" NOT NULL,
    version          bigint NOT NULL,
    position         bigint NOT NULL,
    created_position bigint NOT NULL,
    body             jsonb  NOT NULL
);
CREATE INDEX state_newest_first ON ledger.state (kind, workspace_id, created_position DESC);
CREATE INDEX state_of_kind ON ledger.state (kind, created_position DESC);

-- Each workspace's data key, wrapped under the seal secret. Destroying the row shreds what people have typed.
CREATE TABLE ledger.workspace_key (
    workspace_id text COLLATE "C" PRIMARY KEY,
    wrapped      bytea NOT NULL
);

-- Answers to POSTs that carried an Idempotency-Key, sealed so that only the key's holder can open them.
CREATE TABLE ledger.idempotency (
    id           bytea  PRIMARY KEY,
    request_hash bytea  NOT NULL,
    sealed       bytea  NOT NULL,
    position     bigint NOT NULL,
    at           bigint NOT NULL,
    kept_until   bigint NOT NULL
);
CREATE INDEX idempotency_by_age ON ledger.idempotency (kept_until);

CREATE TYPE ledger.command_in AS (
    ordinal          integer,
    command_id       uuid,
    stream_id        text,
    kind             text,
    workspace_id     text,
    expected_version bigint,
    now              bigint,   -- µs; the event's `at` unless the head is later already
    body             text,     -- the stream's state after this command, JSON
    stamps           text[],   -- paths in it (dots between steps) that take the event's `at`
    data_key         bytea,    -- wrapped data key of a workspace that this command creates
    idempotency_id   bytea,
    request_hash     bytea,
    sealed           bytea,
    kept_until       bigint
);
CREATE TYPE ledger.event_in AS (
    ordinal        integer,    -- of its command
    type           text,
    schema_version smallint,
    actor          text,
    request_id     text,
    data           bytea
);
CREATE TYPE ledger.append_out AS (
    ordinal      integer,
    outcome      text,         -- done | conflict | in_progress | replay
    version      bigint,       -- after `done`; the actual one at `conflict`
    position     bigint,
    at           bigint,
    epoch_number integer,
    epoch_line   bytea
);

-- A field of the canonical bytes: its length as u32, then itself.
CREATE FUNCTION ledger.field(value bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN int4send(octet_length(value)) || value;

-- Hash of an event after `previous`: SHA-256(0x01 ‖ previous ‖ u64 position ‖ fields), big-endian.
CREATE FUNCTION ledger.chain_hash(
    previous bytea, epoch_line bytea, pos bigint, stream text, ver bigint, tag text, schema smallint,
    workspace text, actor text, request text, moment bigint, data bytea
) RETURNS bytea LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN sha256(
    '\x01'::bytea || previous || int8send(pos)
    || ledger.field(epoch_line)
    || ledger.field(convert_to(stream, 'UTF8'))
    || ledger.field(int8send(ver))
    || ledger.field(convert_to(tag, 'UTF8'))
    || ledger.field(int2send(schema))
    || ledger.field(convert_to(workspace, 'UTF8'))
    || ledger.field(convert_to(actor, 'UTF8'))
    || ledger.field(convert_to(request, 'UTF8'))
    || ledger.field(int8send(moment))
    || ledger.field(data)
);

-- Append each command's events or say why not; one row a command. Locks: idempotency ids, then streams, both
-- sorted, then last the head. A command that is refused leaves nothing behind and costs the others nothing.
CREATE FUNCTION ledger.append(commands ledger.command_in[], events ledger.event_in[])
RETURNS SETOF ledger.append_out
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
    command  ledger.command_in;
    event    ledger.event_in;
    answers  ledger.append_out[] := array_fill(NULL::ledger.append_out, ARRAY[cardinality(commands)]);
    answer   ledger.append_out;
    found_at stream%ROWTYPE;
    kept     idempotency%ROWTYPE;
    head     log_head%ROWTYPE;
    moment   bigint;
    ver      bigint;
    body     jsonb;
    stamp    text;
    added    integer;
BEGIN
    FOR command IN SELECT * FROM unnest(commands) c WHERE c.idempotency_id IS NOT NULL
                   ORDER BY c.idempotency_id, c.ordinal LOOP
        answer := NULL;
        answer.ordinal := command.ordinal;
        IF NOT pg_try_advisory_xact_lock(hashtextextended(encode(command.idempotency_id, 'hex'), 7)) THEN
            answer.outcome := 'in_progress';
        ELSE
            SELECT * INTO kept FROM idempotency i
             WHERE i.id = command.idempotency_id AND i.kept_until > command.now;
            IF FOUND OR EXISTS (SELECT FROM unnest(commands) c
                                 WHERE c.idempotency_id = command.idempotency_id AND c.ordinal < command.ordinal)
            THEN answer.outcome := 'replay'; END IF;
        END IF;
        answers[command.ordinal] := answer;
    END LOOP;

    FOR command IN SELECT * FROM unnest(commands) c ORDER BY c.stream_id COLLATE "C", c.ordinal LOOP
        answer := answers[command.ordinal];
        CONTINUE WHEN answer.outcome IS NOT NULL;
        answer.ordinal := command.ordinal;
        SELECT count(*) INTO added FROM unnest(events) e WHERE e.ordinal = command.ordinal;
        IF command.expected_version = 0 THEN
            INSERT INTO stream (id, workspace_id, version)
            VALUES (command.stream_id, command.workspace_id, 0) ON CONFLICT DO NOTHING;
        END IF;
        SELECT * INTO found_at FROM stream s WHERE s.id = command.stream_id FOR UPDATE;
        IF NOT FOUND OR found_at.workspace_id <> command.workspace_id
           OR found_at.version <> command.expected_version THEN
            answer.outcome := 'conflict';
            answer.version := coalesce(found_at.version, 0);
        ELSE
            UPDATE stream SET version = version + added WHERE id = command.stream_id;
            answer.outcome := 'done';
            answer.version := command.expected_version + added;
        END IF;
        answers[command.ordinal] := answer;
    END LOOP;

    SELECT * INTO head FROM log_head FOR UPDATE;
    FOR command IN SELECT * FROM unnest(commands) c ORDER BY c.ordinal LOOP
        answer := answers[command.ordinal];
        CONTINUE WHEN answer.outcome <> 'done';
        moment := greatest(command.now, head.at);
        ver := command.expected_version;
        FOR event IN SELECT * FROM unnest(events) e WHERE e.ordinal = command.ordinal LOOP
            ver := ver + 1;
            head.position := head.position + 1;
            head.at := moment;
            head.hash := chain_hash(
                head.hash, head.epoch_line, head.position, command.stream_id, ver, event.type,
                event.schema_version, command.workspace_id, event.actor, event.request_id, moment, event.data);
            INSERT INTO event VALUES (
                head.position, command.stream_id, ver, event.type, event.schema_version, command.workspace_id,
                event.actor, event.request_id, moment, command.command_id, event.data, head.hash);
        END LOOP;
        answer.position := head.position;
        answer.at := moment;
        IF ver > command.expected_version THEN
            body := command.body::jsonb;
            FOREACH stamp IN ARRAY command.stamps LOOP
                body := jsonb_set(body, string_to_array(stamp, '.'), to_jsonb(moment), false);
            END LOOP;
            INSERT INTO state VALUES (
                command.stream_id, command.kind, command.workspace_id, ver, head.position, head.position, body)
            ON CONFLICT (stream_id) DO UPDATE
                SET version = excluded.version, position = excluded.position, body = excluded.body;
        ELSE
            -- nothing happened, so the answer is about the state as it stands
            SELECT s.position INTO answer.position FROM state s WHERE s.stream_id = command.stream_id;
        END IF;
        IF command.data_key IS NOT NULL THEN
            INSERT INTO workspace_key VALUES (command.workspace_id, command.data_key);
        END IF;
        IF command.idempotency_id IS NOT NULL THEN
            INSERT INTO idempotency VALUES (
                command.idempotency_id, command.request_hash, command.sealed, answer.position, moment,
                command.kept_until)
            ON CONFLICT (id) DO UPDATE SET request_hash = excluded.request_hash, sealed = excluded.sealed,
                position = excluded.position, at = excluded.at, kept_until = excluded.kept_until;
        END IF;
        answers[command.ordinal] := answer;
    END LOOP;
    UPDATE log_head h SET position = head.position, hash = head.hash, at = head.at
     WHERE h.position <> head.position;

    FOREACH answer IN ARRAY answers LOOP
        answer.epoch_number := head.epoch_number;
        answer.epoch_line := head.epoch_line;
        RETURN NEXT answer;
    END LOOP;
END $$;

-- The last position at or before a moment, 0 before the first: `at` never decreases, so halving finds it.
CREATE FUNCTION ledger.position_at(moment bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
    low  bigint := 0;
    high bigint := (SELECT position FROM ledger.log_head);
    half bigint;
BEGIN
    WHILE low < high LOOP
        half := (low + high + 1) / 2;
        IF (SELECT at FROM ledger.event WHERE position = half) <= moment THEN low := half;
        ELSE high := half - 1; END IF;
    END LOOP;
    RETURN low;
END $$;

-- Begin a new telling, unless someone already did since `seen` was the line: for a Postgres that went back in time.
CREATE FUNCTION ledger.begin_epoch(seen bytea, now bigint) RETURNS TABLE (epoch_number integer, epoch_line bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
    head log_head%ROWTYPE;
BEGIN
    SELECT * INTO head FROM log_head FOR UPDATE;
    IF head.epoch_line = seen THEN
        head.epoch_number := head.epoch_number + 1;
        head.epoch_line := substring(uuid_send(gen_random_uuid()) FROM 1 FOR 8);
        INSERT INTO epoch VALUES (head.epoch_number, head.epoch_line, head.position, head.hash,
                                  greatest(now, head.at));
        UPDATE log_head h SET epoch_number = head.epoch_number, epoch_line = head.epoch_line;
    END IF;
    RETURN QUERY SELECT head.epoch_number, head.epoch_line;
END $$;

-- Forget answers whose day is over; at most 1,000 a call, so that it never holds a lock for long.
CREATE FUNCTION ledger.forget_answers(now bigint) RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
    WITH gone AS (
        DELETE FROM idempotency WHERE id IN (
            SELECT id FROM idempotency WHERE kept_until <= now LIMIT 1000 FOR UPDATE SKIP LOCKED)
        RETURNING 1)
    SELECT count(*)::integer FROM gone
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ledger FROM PUBLIC;
GRANT USAGE ON SCHEMA ledger TO keyledger_keys;
GRANT SELECT ON ledger.log_head, ledger.epoch, ledger.stream, ledger.event, ledger.state, ledger.workspace_key,
    ledger.idempotency TO keyledger_keys;
GRANT EXECUTE ON FUNCTION ledger.append(ledger.command_in[], ledger.event_in[]),
    ledger.position_at(bigint), ledger.begin_epoch(bytea, bigint), ledger.forget_answers(bigint) TO keyledger_keys;
