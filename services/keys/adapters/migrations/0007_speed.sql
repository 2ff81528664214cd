-- The append again, the same in every answer, with statements for a whole group instead of for each command.
--
-- Measured with groups of 16: a third of the time. What has to go one by one (the versions along a stream,
-- positions, the chain) goes in loops over arrays, without a statement inside.

SET LOCAL ROLE keyledger_owner;

-- The canonical bytes of an event from its position on: what is hashed behind 0x01 and the hash before.
-- STABLE as `convert_to` is: Postgres puts the body of an IMMUTABLE function in the caller's place only when
-- all it calls is immutable, and a call costs ten times what it does.
CREATE FUNCTION ledger.chain_tail(
    epoch_line bytea, pos bigint, stream text, ver bigint, tag text, schema smallint,
    workspace text, actor text, request text, moment bigint, data bytea
) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE RETURN
    int8send(pos)
    || ledger.field(epoch_line)
    || int4send(octet_length(stream)) || convert_to(stream, 'UTF8')
    || '\x00000008'::bytea || int8send(ver)
    || int4send(octet_length(tag)) || convert_to(tag, 'UTF8')
    || '\x00000002'::bytea || int2send(schema)
    || int4send(octet_length(workspace)) || convert_to(workspace, 'UTF8')
    || int4send(octet_length(actor)) || convert_to(actor, 'UTF8')
    || int4send(octet_length(request)) || convert_to(request, 'UTF8')
    || '\x00000008'::bytea || int8send(moment)
    || int4send(octet_length(data)) || data;

CREATE OR REPLACE FUNCTION ledger.chain_hash(
    previous bytea, epoch_line bytea, pos bigint, stream text, ver bigint, tag text, schema smallint,
    workspace text, actor text, request text, moment bigint, data bytea
) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE RETURN sha256(
    '\x01'::bytea || previous
    || ledger.chain_tail(epoch_line, pos, stream, ver, tag, schema, workspace, actor, request, moment, data));

-- The hash of each event of a row of them, as a window aggregate: `before` is the hash that the first follows.
CREATE FUNCTION ledger.link(so_far bytea, before bytea, tail bytea) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN sha256('\x01'::bytea || coalesce(so_far, before) || tail);
CREATE AGGREGATE ledger.chained(before bytea, tail bytea) (SFUNC = ledger.link, STYPE = bytea);

-- A state with the moment of the commit at each of these paths (dots between steps).
CREATE FUNCTION ledger.stamped(body jsonb, stamps text[], moment bigint) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    stamp text;
BEGIN
    FOREACH stamp IN ARRAY stamps LOOP
        body := jsonb_set(body, string_to_array(stamp, '.'), to_jsonb(moment), false);
    END LOOP;
    RETURN body;
END $$;

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
    outcomes  text[]    := array_fill(NULL::text, ARRAY[many]);
    streams   text[]    := array_fill(NULL::text, ARRAY[many]);
    owners    text[]    := array_fill(NULL::text, ARRAY[many]);
    names     uuid[]    := array_fill(NULL::uuid, ARRAY[many]);
    nows      bigint[]  := array_fill(NULL::bigint, ARRAY[many]);
    firsts    bigint[]  := array_fill(NULL::bigint, ARRAY[many]);   -- the stream's version before the command
    versions  bigint[]  := array_fill(NULL::bigint, ARRAY[many]);   -- and after it
    added     integer[] := array_fill(0, ARRAY[many]);              -- events
    places    integer[] := '{}';                                    -- of each event within its command
    fresh     boolean[] := array_fill(false, ARRAY[many]);          -- its stream begins in this call
    lasts     boolean[] := array_fill(false, ARRAY[many]);          -- of its stream, of those that are done
    movers    boolean[] := array_fill(false, ARRAY[many]);          -- and of those that have events
    origins   integer[] := array_fill(NULL::integer, ARRAY[many]);  -- the first of its stream that has events
    starts    bigint[]  := array_fill(NULL::bigint, ARRAY[many]);   -- the position before the command
    ends      bigint[]  := array_fill(NULL::bigint, ARRAY[many]);
    moments   bigint[]  := array_fill(NULL::bigint, ARRAY[many]);
    found     text[]    := '{}';                                    -- streams that exist, sorted
    found_of  text[]    := '{}';
    found_at  bigint[]  := '{}';
    begun     text[];
    asked     record;
    event     ledger.event_in;
    head      log_head%ROWTYPE;
    before    bigint;
    stream    text;
    owner     text;
    ver       bigint;
    new       boolean;
    name      bytea;
    last      integer;
    mover     integer;
    at        integer := 1;
    beginning integer := 0;
    answered  boolean := false;
    keyed     boolean := false;
    idle      boolean := false;
    moved     boolean := false;
BEGIN
    FOREACH event IN ARRAY events LOOP
        added[event.ordinal] := added[event.ordinal] + 1;
        places := places || added[event.ordinal];
    END LOOP;

    FOR asked IN SELECT c.ordinal, c.idempotency_id, c.now FROM unnest(commands) c
                  WHERE c.idempotency_id IS NOT NULL ORDER BY c.idempotency_id, c.ordinal LOOP
        answered := true;
        IF NOT pg_try_advisory_xact_lock(hashtextextended(encode(asked.idempotency_id, 'hex'), 7)) THEN
            outcomes[asked.ordinal] := 'in_progress';
        ELSIF asked.idempotency_id = name OR EXISTS (
            SELECT FROM idempotency i WHERE i.id = asked.idempotency_id AND i.kept_until > asked.now) THEN
            outcomes[asked.ordinal] := 'replay';
        END IF;
        name := asked.idempotency_id;
    END LOOP;

    FOR asked IN SELECT s.* FROM stream s
                  WHERE s.id = ANY (ARRAY(SELECT c.stream_id FROM unnest(commands) c
                                           WHERE outcomes[c.ordinal] IS NULL))
                  ORDER BY s.id FOR UPDATE LOOP
        found := found || asked.id;
        found_of := found_of || asked.workspace_id;
        found_at := found_at || asked.version;
    END LOOP;

    -- along each stream, each command as it finds what those before it left
    FOR asked IN SELECT c.ordinal, c.command_id, c.stream_id, c.workspace_id, c.expected_version, c.now,
                        c.data_key IS NOT NULL AS keyed
                   FROM unnest(commands) c WHERE outcomes[c.ordinal] IS NULL
                  ORDER BY c.stream_id COLLATE "C", c.ordinal LOOP
        IF asked.stream_id IS DISTINCT FROM stream THEN
            stream := asked.stream_id;
            last := NULL;
            mover := NULL;
            WHILE found[at] < stream COLLATE "C" LOOP
                at := at + 1;
            END LOOP;
            new := found[at] IS DISTINCT FROM stream;
            owner := CASE WHEN new THEN NULL ELSE found_of[at] END;
            ver := CASE WHEN new THEN 0 ELSE found_at[at] END;
        END IF;
        IF owner IS NULL AND asked.expected_version = 0 THEN
            owner := asked.workspace_id;
            beginning := beginning + 1;
        END IF;
        IF owner = asked.workspace_id AND ver = asked.expected_version THEN
            outcomes[asked.ordinal] := 'done';
            streams[asked.ordinal] := stream;
            owners[asked.ordinal] := owner;
            names[asked.ordinal] := asked.command_id;
            nows[asked.ordinal] := asked.now;
            firsts[asked.ordinal] := ver;
            fresh[asked.ordinal] := new;
            keyed := keyed OR asked.keyed;
            moved := moved OR NOT new;
            IF last IS NOT NULL THEN
                lasts[last] := false;
            END IF;
            last := asked.ordinal;
            lasts[last] := true;
            IF added[asked.ordinal] = 0 THEN
                idle := true;
            ELSE
                ver := ver + added[asked.ordinal];
                origins[asked.ordinal] := CASE WHEN mover IS NULL THEN asked.ordinal ELSE origins[mover] END;
                IF mover IS NOT NULL THEN
                    movers[mover] := false;
                END IF;
                mover := asked.ordinal;
                movers[mover] := true;
            END IF;
        ELSE
            outcomes[asked.ordinal] := 'conflict';
        END IF;
        versions[asked.ordinal] := ver;
    END LOOP;

    IF beginning > 0 THEN
        WITH inserted AS (
            INSERT INTO stream (id, workspace_id, version)
                SELECT streams[i], owners[i], versions[i] FROM generate_series(1, many) i
                 WHERE fresh[i] AND lasts[i] ORDER BY streams[i] COLLATE "C"
                ON CONFLICT DO NOTHING RETURNING id)
        SELECT array_agg(id) INTO begun FROM inserted;
        IF cardinality(begun) IS DISTINCT FROM beginning THEN
            -- another process began it meanwhile
            FOR asked IN SELECT i AS ordinal, s.version
                           FROM generate_series(1, many) i JOIN stream s ON s.id = streams[i]
                          WHERE fresh[i] AND NOT coalesce(s.id = ANY (begun), false) LOOP
                outcomes[asked.ordinal] := 'conflict';
                versions[asked.ordinal] := asked.version;
                movers[asked.ordinal] := false;
            END LOOP;
        END IF;
    END IF;
    IF moved THEN
        UPDATE stream s SET version = versions[i] FROM generate_series(1, many) i
         WHERE movers[i] AND NOT fresh[i] AND s.id = streams[i];
    END IF;

    SELECT * INTO head FROM log_head FOR UPDATE;
    before := head.position;
    FOR i IN 1 .. many LOOP
        CONTINUE WHEN outcomes[i] <> 'done';
        moments[i] := greatest(nows[i], head.at);
        starts[i] := head.position;
        IF added[i] > 0 THEN
            head.at := moments[i];
            head.position := head.position + added[i];
            ends[i] := head.position;
        END IF;
    END LOOP;

    IF idle THEN
        -- nothing happened, so the answer is about the state as it stands at that command's turn
        FOR asked IN SELECT i AS ordinal, s.position, (
                            SELECT max(ends[o]) FROM generate_series(1, i - 1) o WHERE streams[o] = streams[i]
                     ) AS just_now
                       FROM generate_series(1, many) i LEFT JOIN state s ON s.stream_id = streams[i]
                      WHERE outcomes[i] = 'done' AND added[i] = 0 LOOP
            ends[asked.ordinal] := coalesce(asked.just_now, asked.position);
        END LOOP;
    END IF;

    IF head.position > before THEN
        WITH recorded AS (
            INSERT INTO event
                SELECT n.position, n.stream_id, n.version, n.type, n.schema_version, n.workspace_id, n.actor,
                       n.request_id, n.at, n.command_id, n.data,
                       chained(head.hash, chain_tail(
                           head.epoch_line, n.position, n.stream_id, n.version, n.type, n.schema_version,
                           n.workspace_id, n.actor, n.request_id, n.at, n.data))
                       OVER (ORDER BY n.position ROWS UNBOUNDED PRECEDING)
                  FROM (SELECT starts[e.ordinal] + places[e.number] AS position, streams[e.ordinal] AS stream_id,
                               firsts[e.ordinal] + places[e.number] AS version, e.type, e.schema_version,
                               owners[e.ordinal] AS workspace_id, e.actor, e.request_id, moments[e.ordinal] AS at,
                               names[e.ordinal] AS command_id, e.data
                          FROM unnest(events) WITH ORDINALITY
                               e (ordinal, type, schema_version, actor, request_id, data, number)
                         WHERE outcomes[e.ordinal] = 'done') n
                RETURNING position, hash)
        SELECT r.hash INTO head.hash FROM recorded r WHERE r.position = head.position;
        -- of several commands on one stream the last one's state stands, created where the first one ended
        INSERT INTO state
            SELECT c.stream_id, c.kind, c.workspace_id, versions[c.ordinal], ends[c.ordinal],
                   ends[origins[c.ordinal]],
                   CASE cardinality(c.stamps)
                        WHEN 0 THEN c.body::jsonb
                        WHEN 1 THEN jsonb_set(c.body::jsonb, string_to_array(c.stamps[1], '.'),
                                              to_jsonb(moments[c.ordinal]), false)
                        WHEN 2 THEN jsonb_set(jsonb_set(c.body::jsonb, string_to_array(c.stamps[1], '.'),
                                                        to_jsonb(moments[c.ordinal]), false),
                                              string_to_array(c.stamps[2], '.'),
                                              to_jsonb(moments[c.ordinal]), false)
                        ELSE stamped(c.body::jsonb, c.stamps, moments[c.ordinal]) END
              FROM unnest(commands) c WHERE movers[c.ordinal]
            ON CONFLICT (stream_id) DO UPDATE
                SET version = excluded.version, position = excluded.position, body = excluded.body;
        UPDATE log_head h SET position = head.position, hash = head.hash, at = head.at;
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

    RETURN QUERY SELECT i, outcomes[i], versions[i], ends[i], moments[i], head.epoch_number, head.epoch_line
                   FROM generate_series(1, many) i;
END $$;
