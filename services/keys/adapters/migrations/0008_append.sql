-- The append once more, the same in every answer, with less work for each command of a group.
--
-- Measured with groups of 16 new keys: 1.00 ms in the function before, 0.85 ms now. What the commands say is put
-- into arrays once, the chain is linked in a loop instead of a window, the canonical bytes that do not depend on
-- the head are made before its lock, deleted workspaces are looked for once a statement, and the state of a new
-- stream goes in without a look for an older one.

SET LOCAL ROLE keyledger_owner;

-- Keys are only ever listed by workspace; of this order only workspaces are asked for.
CREATE INDEX state_of_workspaces ON ledger.state (created_position DESC) WHERE kind = 'workspace';
DROP INDEX ledger.state_of_kind;

-- No event of a deleted workspace, whoever appends it: whoever waited for the head's lock meanwhile gets here
-- after the deletion is committed. KL404 is told apart by its class and not by its words.
DROP TRIGGER event_of_no_deleted_workspace ON ledger.event;
CREATE OR REPLACE FUNCTION ledger.guard_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added a WHERE a.type = 'workspace_deleted') OR EXISTS (
        SELECT FROM ledger.erasure e WHERE e.workspace_id = ANY (ARRAY(SELECT a.workspace_id FROM added a))) THEN
        INSERT INTO ledger.erasure (workspace_id, position)
            SELECT a.workspace_id, min(a.position) FROM added a WHERE a.type = 'workspace_deleted'
             GROUP BY a.workspace_id
            ON CONFLICT (workspace_id) DO NOTHING;
        IF EXISTS (SELECT FROM added a JOIN ledger.erasure e ON e.workspace_id = a.workspace_id
                    WHERE e.position < a.position) THEN
            RAISE EXCEPTION 'the workspace is deleted' USING ERRCODE = 'KL404';
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER event_of_no_deleted_workspace AFTER INSERT ON ledger.event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ledger.guard_deleted();

-- The state as it is stored. Postgres puts the body of this in its caller's place.
CREATE FUNCTION ledger.state_body(body text, stamps text[], moment bigint) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE RETURN CASE cardinality(stamps)
    WHEN 0 THEN body::jsonb
    WHEN 1 THEN jsonb_set(body::jsonb, string_to_array(stamps[1], '.'), to_jsonb(moment), false)
    WHEN 2 THEN jsonb_set(jsonb_set(body::jsonb, string_to_array(stamps[1], '.'), to_jsonb(moment), false),
                          string_to_array(stamps[2], '.'), to_jsonb(moment), false)
    ELSE ledger.stamped(body::jsonb, stamps, moment) END;

-- Append each command's events or say why not; one row a command. Locks: idempotency ids, then the streams
-- that exist, then those that begin here, each sorted, then last the head. A command that is refused leaves
-- nothing behind and costs the others nothing. Arrays are indexed by the commands' ordinals, 1 to n.
-- A plan may have been made while the tables were empty, so sequential scans are out of the question.
CREATE OR REPLACE FUNCTION ledger.append(commands ledger.command_in[], events ledger.event_in[])
RETURNS SETOF ledger.append_out
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp SET enable_seqscan = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    many      integer   := cardinality(commands);
    streams   text[];
    owners    text[];
    names     uuid[];
    nows      bigint[];
    expected  bigint[];
    turns     integer[];                                            -- the ordinals, along each stream
    outcomes  text[]    := array_fill(NULL::text, ARRAY[many]);
    firsts    bigint[]  := array_fill(NULL::bigint, ARRAY[many]);   -- the stream's version before the command
    versions  bigint[]  := array_fill(NULL::bigint, ARRAY[many]);   -- and after it
    added     integer[] := array_fill(0, ARRAY[many]);              -- events
    places    integer[] := '{}';                                    -- of each event within its command
    origins   integer[] := array_fill(NULL::integer, ARRAY[many]);  -- the first of its stream that has events
    starts    bigint[]  := array_fill(NULL::bigint, ARRAY[many]);   -- the position before the command
    ends      bigint[]  := array_fill(NULL::bigint, ARRAY[many]);
    moments   bigint[]  := array_fill(NULL::bigint, ARRAY[many]);
    found     text[]    := '{}';                                    -- streams that exist, sorted
    found_of  text[]    := '{}';
    found_at  bigint[]  := '{}';
    begins    integer[] := '{}';                                    -- of each new stream the last that is done
    creators  integer[] := '{}';                                    -- and the last of those that have events
    movers    integer[] := '{}';                                    -- which is this of a stream that exists
    begun     text[];
    middles   bytea[];                                              -- what is hashed between line and moment
    tails     bytea[];                                              -- and behind it
    hashes    bytea[]   := '{}';
    asked     record;
    event     ledger.event_in;
    head      log_head%ROWTYPE;
    line      bytea;
    link      bytea;
    pos       bigint;
    moment    bigint;
    stream    text;
    owner     text;
    ver       bigint;
    new       boolean;
    name      bytea;
    mover     integer;
    i         integer;
    at        integer := 1;
    number    integer := 0;
    answered  boolean;
    keyed     boolean;
    idle      boolean := false;
BEGIN
    SELECT array_agg(c.stream_id ORDER BY c.ordinal), array_agg(c.workspace_id ORDER BY c.ordinal),
           array_agg(c.command_id ORDER BY c.ordinal), array_agg(c.now ORDER BY c.ordinal),
           array_agg(c.expected_version ORDER BY c.ordinal),
           bool_or(c.data_key IS NOT NULL), bool_or(c.idempotency_id IS NOT NULL)
      INTO streams, owners, names, nows, expected, keyed, answered FROM unnest(commands) c;
    FOREACH event IN ARRAY events LOOP
        added[event.ordinal] := added[event.ordinal] + 1;
        places := places || added[event.ordinal];
    END LOOP;

    IF answered THEN
        FOR asked IN SELECT c.ordinal, c.idempotency_id, c.now FROM unnest(commands) c
                      WHERE c.idempotency_id IS NOT NULL ORDER BY c.idempotency_id, c.ordinal LOOP
            IF NOT pg_try_advisory_xact_lock(hashtextextended(encode(asked.idempotency_id, 'hex'), 7)) THEN
                outcomes[asked.ordinal] := 'in_progress';
            ELSIF asked.idempotency_id = name OR EXISTS (
                SELECT FROM idempotency k WHERE k.id = asked.idempotency_id AND k.kept_until > asked.now) THEN
                outcomes[asked.ordinal] := 'replay';
            END IF;
            name := asked.idempotency_id;
        END LOOP;
    END IF;

    turns := ARRAY(SELECT s.ordinal FROM unnest(streams) WITH ORDINALITY s (id, ordinal)
                    WHERE outcomes[s.ordinal] IS NULL ORDER BY s.id COLLATE "C", s.ordinal);
    FOR asked IN SELECT s.* FROM stream s WHERE s.id = ANY (ARRAY(SELECT streams[t] FROM unnest(turns) t))
                  ORDER BY s.id FOR UPDATE LOOP
        found := found || asked.id;
        found_of := found_of || asked.workspace_id;
        found_at := found_at || asked.version;
    END LOOP;

    -- along each stream, each command as it finds what those before it left
    FOREACH i IN ARRAY turns LOOP
        IF streams[i] IS DISTINCT FROM stream THEN
            stream := streams[i];
            mover := NULL;
            WHILE found[at] < stream COLLATE "C" LOOP
                at := at + 1;
            END LOOP;
            new := found[at] IS DISTINCT FROM stream;
            owner := CASE WHEN new THEN NULL ELSE found_of[at] END;
            ver := CASE WHEN new THEN 0 ELSE found_at[at] END;
        END IF;
        IF owner IS NULL AND expected[i] = 0 THEN
            owner := owners[i];
            begins := begins || i;
        END IF;
        IF owner = owners[i] AND ver = expected[i] THEN
            outcomes[i] := 'done';
            firsts[i] := ver;
            IF new THEN
                begins[cardinality(begins)] := i;
            END IF;
            IF added[i] = 0 THEN
                idle := true;
            ELSE
                ver := ver + added[i];
                origins[i] := CASE WHEN mover IS NULL THEN i ELSE origins[mover] END;
                IF new THEN
                    creators[cardinality(creators) + (mover IS NULL)::integer] := i;
                ELSE
                    movers[cardinality(movers) + (mover IS NULL)::integer] := i;
                END IF;
                mover := i;
            END IF;
        ELSE
            outcomes[i] := 'conflict';
        END IF;
        versions[i] := ver;
    END LOOP;

    IF cardinality(begins) > 0 THEN
        WITH inserted AS (
            INSERT INTO stream (id, workspace_id, version)
                SELECT streams[b], owners[b], versions[b] FROM unnest(begins) b
                ON CONFLICT DO NOTHING RETURNING id)
        SELECT array_agg(id) INTO begun FROM inserted;
        IF cardinality(begun) IS DISTINCT FROM cardinality(begins) THEN
            -- another process began it meanwhile
            FOR asked IN SELECT t AS ordinal, s.version FROM unnest(turns) t JOIN stream s ON s.id = streams[t]
                          WHERE outcomes[t] = 'done' AND NOT s.id = ANY (found)
                            AND NOT coalesce(s.id = ANY (begun), false) LOOP
                outcomes[asked.ordinal] := 'conflict';
                versions[asked.ordinal] := asked.version;
            END LOOP;
            creators := ARRAY(SELECT c FROM unnest(creators) c WHERE outcomes[c] = 'done');
        END IF;
    END IF;
    IF cardinality(movers) > 0 THEN
        UPDATE stream s SET version = versions[m] FROM unnest(movers) m WHERE s.id = streams[m];
    END IF;

    SELECT array_agg(
               int4send(octet_length(streams[e.ordinal])) || convert_to(streams[e.ordinal], 'UTF8')
               || '\x00000008'::bytea || int8send(firsts[e.ordinal] + places[e.number])
               || int4send(octet_length(e.type)) || convert_to(e.type, 'UTF8')
               || '\x00000002'::bytea || int2send(e.schema_version)
               || int4send(octet_length(owners[e.ordinal])) || convert_to(owners[e.ordinal], 'UTF8')
               || int4send(octet_length(e.actor)) || convert_to(e.actor, 'UTF8')
               || int4send(octet_length(e.request_id)) || convert_to(e.request_id, 'UTF8')
               || '\x00000008'::bytea ORDER BY e.ordinal, e.number),
           array_agg(int4send(octet_length(e.data)) || e.data ORDER BY e.ordinal, e.number)
      INTO middles, tails
      FROM unnest(events) WITH ORDINALITY e (ordinal, type, schema_version, actor, request_id, data, number);

    SELECT * INTO head FROM log_head FOR UPDATE;
    pos := head.position;
    link := head.hash;
    moment := head.at;
    line := field(head.epoch_line);
    FOR i IN 1 .. many LOOP
        IF outcomes[i] = 'done' THEN
            moments[i] := greatest(nows[i], moment);
            starts[i] := pos;
            IF added[i] > 0 THEN
                moment := moments[i];
                FOR place IN 1 .. added[i] LOOP
                    pos := pos + 1;
                    link := sha256('\x01'::bytea || link || int8send(pos) || line || middles[number + place]
                                   || int8send(moment) || tails[number + place]);
                    hashes := hashes || link;
                END LOOP;
                ends[i] := pos;
            END IF;
        END IF;
        number := number + added[i];
    END LOOP;

    IF idle THEN
        -- nothing happened, so the answer is about the state as it stands at that command's turn
        FOR asked IN SELECT o AS ordinal, s.position, (
                            SELECT max(ends[b]) FROM generate_series(1, o - 1) b WHERE streams[b] = streams[o]
                     ) AS just_now
                       FROM generate_series(1, many) o LEFT JOIN state s ON s.stream_id = streams[o]
                      WHERE outcomes[o] = 'done' AND added[o] = 0 LOOP
            ends[asked.ordinal] := coalesce(asked.just_now, asked.position);
        END LOOP;
    END IF;

    IF pos > head.position THEN
        INSERT INTO event
            SELECT starts[e.ordinal] + places[e.number], streams[e.ordinal], firsts[e.ordinal] + places[e.number],
                   e.type, e.schema_version, owners[e.ordinal], e.actor, e.request_id, moments[e.ordinal],
                   names[e.ordinal], e.data, hashes[starts[e.ordinal] + places[e.number] - head.position]
              FROM unnest(events) WITH ORDINALITY
                   e (ordinal, type, schema_version, actor, request_id, data, number)
             WHERE outcomes[e.ordinal] = 'done';
        -- of several commands on one stream the last one's state stands, created where the first one ended
        IF cardinality(creators) > 0 THEN
            INSERT INTO state
                SELECT c.stream_id, c.kind, c.workspace_id, versions[c.ordinal], ends[c.ordinal],
                       ends[origins[c.ordinal]], state_body(c.body, c.stamps, moments[c.ordinal])
                  FROM unnest(commands) c WHERE c.ordinal = ANY (creators);
        END IF;
        IF cardinality(movers) > 0 THEN
            INSERT INTO state
                SELECT c.stream_id, c.kind, c.workspace_id, versions[c.ordinal], ends[c.ordinal],
                       ends[origins[c.ordinal]], state_body(c.body, c.stamps, moments[c.ordinal])
                  FROM unnest(commands) c WHERE c.ordinal = ANY (movers)
                ON CONFLICT (stream_id) DO UPDATE
                    SET version = excluded.version, position = excluded.position, body = excluded.body;
        END IF;
        UPDATE log_head h SET position = pos, hash = link, at = moment;
    END IF;

    IF keyed THEN
        INSERT INTO workspace_key
            SELECT c.workspace_id, c.data_key FROM unnest(commands) c
             WHERE outcomes[c.ordinal] = 'done' AND c.data_key IS NOT NULL;
    END IF;
    IF answered THEN
        INSERT INTO idempotency
            SELECT c.idempotency_id, c.request_hash, c.sealed, ends[c.ordinal], moments[c.ordinal], c.kept_until
              FROM unnest(commands) c
             WHERE outcomes[c.ordinal] = 'done' AND c.idempotency_id IS NOT NULL
            ON CONFLICT (id) DO UPDATE SET request_hash = excluded.request_hash, sealed = excluded.sealed,
                position = excluded.position, at = excluded.at, kept_until = excluded.kept_until;
    END IF;

    RETURN QUERY SELECT o, outcomes[o], versions[o], ends[o], moments[o], head.epoch_number, head.epoch_line
                   FROM generate_series(1, many) o;
END $$;

REVOKE ALL ON FUNCTION ledger.state_body(text, text[], bigint) FROM PUBLIC;
