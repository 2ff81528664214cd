-- The use log in partitions by day of receipt, so that days that are no longer wanted go at once; and each use
-- with the external id that its key had then. What a dropped day added up to is carried on, by the hour, so
-- that counters can still be derived anew in full.

SET LOCAL ROLE keyledger_owner;

-- Batches up to `gone_to` are no longer there.
ALTER TABLE ledger.use_head ADD COLUMN gone_to bigint NOT NULL DEFAULT 0;

-- A day (UTC, counted from 1970-01-01) on which batches were received, and the first of them. The day of a batch
-- is that of its `at`, which never goes back, so the batches of a day are one range of positions.
CREATE TABLE ledger.use_day (
    day   integer PRIMARY KEY,
    first bigint  NOT NULL
);

ALTER TABLE ledger.use_record RENAME TO use_record_before;
ALTER INDEX ledger.use_record_by_position RENAME TO use_record_before_by_position;
CREATE TABLE ledger.use_record (
    day          integer NOT NULL,
    position     bigint NOT NULL,   -- of its batch
    workspace_id text COLLATE "C" NOT NULL,
    key_id       text COLLATE "C" NOT NULL,
    environment  text   NOT NULL,
    minute       bigint NOT NULL,
    outcome      text   NOT NULL,
    count        bigint NOT NULL,
    cost         bigint NOT NULL,
    last_at      bigint NOT NULL,
    external_id  text COLLATE "C" NOT NULL DEFAULT ''
) PARTITION BY LIST (day);
CREATE INDEX use_record_by_position ON ledger.use_record (position);

CREATE FUNCTION ledger.use_partition(day integer) RETURNS text LANGUAGE sql IMMUTABLE
    RETURN 'use_record_' || to_char('1970-01-01'::date + day, 'YYYYMMDD');

-- Attached, not created as a partition: that would wait for whoever reads the log.
CREATE FUNCTION ledger.open_use_day(wanted integer, first bigint) RETURNS void
LANGUAGE plpgsql SET search_path = ledger, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TABLE ledger.%I (LIKE ledger.use_record INCLUDING ALL)', use_partition(wanted));
    EXECUTE format('ALTER TABLE ledger.use_record ATTACH PARTITION ledger.%I FOR VALUES IN (%s)',
                   use_partition(wanted), wanted);
    -- Recorders COPY into the day itself: an array of each column costs a function more than the rows do. Nobody
    -- may change or remove what stands there, and rows that were slipped in behind the head's back are found
    -- by `usage prove`: positions are folded once.
    EXECUTE format('GRANT INSERT ON ledger.%I TO keyledger_keys', use_partition(wanted));
    INSERT INTO use_day VALUES (wanted, open_use_day.first);
END $$;

SELECT ledger.open_use_day(day, first)
  FROM (SELECT (at / 86400000000)::integer AS day, min(position) AS first FROM ledger.use_batch GROUP BY 1) days
 ORDER BY day;
INSERT INTO ledger.use_record
    SELECT (b.at / 86400000000)::integer, r.* , '' FROM ledger.use_record_before r JOIN ledger.use_batch b USING (position);
DROP TABLE ledger.use_record_before;

-- By the hour what days that are gone had added up to; by the day where hours are no longer counted either.
CREATE TABLE ledger.use_carried (
    workspace_id text COLLATE "C" NOT NULL,
    hour         bigint NOT NULL,
    key_id       text COLLATE "C" NOT NULL,
    environment  text COLLATE "C" NOT NULL,
    outcome      text COLLATE "C" NOT NULL,
    external_id  text COLLATE "C" NOT NULL,
    count        bigint NOT NULL,
    cost         bigint NOT NULL,
    last_at      bigint NOT NULL,
    PRIMARY KEY (workspace_id, hour, key_id, environment, outcome, external_id)
);

-- The first half of recording a batch, for the transaction that then copies its rows into `into_table`: takes the
-- head's lock, the position, and the batch's number from its source. `position` is null for a batch that is
-- recorded already. `erased` are those of these workspaces that are deleted: their uses come late from a
-- verifier's spool and are not to be written. The lock shows every deletion whose marker stands before them.
DROP FUNCTION ledger.record_uses(
    text, bigint, bigint, text[], text[], text[], bigint[], text[], bigint[], bigint[], bigint[]);
DROP FUNCTION ledger.drop_late_uses();
CREATE FUNCTION ledger.begin_uses(source text, batch_seq bigint, now bigint, workspaces text[])
RETURNS TABLE (next_seq bigint, "position" bigint, day integer, into_table text, erased text[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
    expected bigint;
    head     use_head%ROWTYPE;
    today    integer;
BEGIN
    INSERT INTO use_source AS s (boot, next_seq, at) VALUES (source, 0, now)
        ON CONFLICT (boot) DO UPDATE SET at = greatest(s.at, now) RETURNING s.next_seq INTO expected;
    IF batch_seq < expected THEN
        RETURN QUERY SELECT expected, NULL::bigint, NULL::integer, NULL::text, NULL::text[];
        RETURN;
    END IF;
    UPDATE use_source s SET next_seq = batch_seq + 1 WHERE s.boot = source;
    UPDATE use_head h SET position = h.position + 1, at = greatest(h.at, now) RETURNING * INTO head;
    INSERT INTO use_batch VALUES (head.position, source, batch_seq, head.at);
    today := head.at / 86400000000;
    IF NOT EXISTS (SELECT FROM use_day u WHERE u.day = today) THEN
        PERFORM open_use_day(today, head.position);
    END IF;
    RETURN QUERY SELECT batch_seq + 1, head.position, today, use_partition(today),
        ARRAY(SELECT d.workspace_id FROM erasure d WHERE d.workspace_id = ANY (workspaces));
END $$;

-- Drop the oldest day, once everything up to its end is folded into counters; answers the position up to which
-- batches are gone. What it added up to is carried on. The newest day stays: it may still grow.
CREATE FUNCTION ledger.retire_use_day(wanted integer, folded bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = ledger, pg_temp AS $$
DECLARE
    last_one bigint := (SELECT u.first - 1 FROM use_day u WHERE u.day > wanted ORDER BY u.day LIMIT 1);
BEGIN
    IF last_one IS NULL OR EXISTS (SELECT FROM use_day u WHERE u.day < wanted)
       OR NOT EXISTS (SELECT FROM use_day u WHERE u.day = wanted) THEN
        RAISE EXCEPTION 'day % is not the oldest, or it is the newest', wanted USING ERRCODE = 'KL409';
    END IF;
    IF last_one > folded THEN
        RAISE EXCEPTION 'day % is not folded yet', wanted USING ERRCODE = 'KL409';
    END IF;
    -- an erasure that is told meanwhile waits, and then finds these rows
    LOCK TABLE use_carried IN SHARE ROW EXCLUSIVE MODE;
    INSERT INTO use_carried AS kept
        SELECT r.workspace_id, r.minute - r.minute % 3600000000, r.key_id, r.environment, r.outcome, r.external_id,
               sum(r.count), sum(r.cost), max(r.last_at)
          FROM use_record r
         WHERE r.day = wanted AND NOT EXISTS (SELECT FROM erasure d WHERE d.workspace_id = r.workspace_id)
         GROUP BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (workspace_id, hour, key_id, environment, outcome, external_id)
        DO UPDATE SET count = kept.count + excluded.count, cost = kept.cost + excluded.cost,
                      last_at = greatest(kept.last_at, excluded.last_at);
    DELETE FROM use_batch b WHERE b.position <= last_one;
    DELETE FROM use_day u WHERE u.day = wanted;
    -- the head's lock first, as recorders do
    UPDATE use_head h SET gone_to = last_one;
    EXECUTE format('DROP TABLE ledger.%I', use_partition(wanted));
    RETURN last_one;
END $$;

-- Carry on by the day what lies before this day's start (µs); answers how many rows there are fewer.
CREATE FUNCTION ledger.coarsen_carried(before bigint) RETURNS bigint
LANGUAGE sql SET search_path = ledger, pg_temp AS $$
    WITH fine AS (
        DELETE FROM use_carried WHERE hour < before AND hour % 86400000000 <> 0 RETURNING *
    ), days AS (
        INSERT INTO use_carried AS kept
            SELECT workspace_id, hour - hour % 86400000000, key_id, environment, outcome, external_id,
                   sum(count), sum(cost), max(last_at)
              FROM fine GROUP BY 1, 2, 3, 4, 5, 6
            ON CONFLICT (workspace_id, hour, key_id, environment, outcome, external_id)
            DO UPDATE SET count = kept.count + excluded.count, cost = kept.cost + excluded.cost,
                          last_at = greatest(kept.last_at, excluded.last_at)
            RETURNING xmax = 0 AS new
    )
    SELECT (SELECT count(*) FROM fine) - (SELECT count(*) FROM days WHERE new)
$$;

-- As before; what is carried goes too.
CREATE OR REPLACE FUNCTION ledger.erase_some(most integer, now bigint) RETURNS boolean
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
    DELETE FROM use_carried c WHERE c.ctid = ANY (ARRAY(
        SELECT ctid FROM use_carried WHERE workspace_id = job.workspace_id LIMIT most));
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN RETURN true; END IF;

    -- batches that are gone need no look
    job.swept := greatest(job.swept, (SELECT gone_to FROM use_head));
    job.swept := least(job.swept + most, job.marker);
    DELETE FROM use_record r WHERE r.workspace_id = job.workspace_id
       AND r.position > job.swept - most AND r.position <= job.swept;
    UPDATE erasure SET swept = job.swept, rows_gone = job.swept = job.marker
     WHERE workspace_id = job.workspace_id;
    RETURN true;
END $$;

REVOKE ALL ON FUNCTION ledger.begin_uses(text, bigint, bigint, text[]), ledger.use_partition(integer),
    ledger.open_use_day(integer, bigint), ledger.retire_use_day(integer, bigint),
    ledger.coarsen_carried(bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ledger.begin_uses(text, bigint, bigint, text[]) TO keyledger_keys;
GRANT SELECT ON ledger.use_record TO keyledger_keys, keyledger_operator, keyledger_reader;
GRANT SELECT ON ledger.use_day, ledger.use_carried TO keyledger_keys, keyledger_operator;

-- Nobody may read the partitions by themselves, so these hold however the log is reached.
ALTER TABLE ledger.use_record ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON ledger.use_record FOR SELECT TO keyledger_keys, keyledger_operator USING (true);
CREATE POLICY one_workspace ON ledger.use_record FOR SELECT TO keyledger_reader
    USING (workspace_id = ledger.named_workspace());
ALTER TABLE ledger.use_carried ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON ledger.use_carried FOR SELECT TO keyledger_keys, keyledger_operator USING (true);
