-- What is carried on of a day that goes stays at the most that its number can hold, as the counters do: a sum beyond
-- it would keep that day, and all after it, for ever.

SET LOCAL ROLE keyledger_owner;

-- Drop the oldest day, once everything up to its end is folded into counters; answers the position up to which
-- batches are gone. What it added up to is carried on. The newest day stays: it may still grow.
CREATE OR REPLACE FUNCTION ledger.retire_use_day(wanted integer, folded bigint) RETURNS bigint
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
               least(sum(r.count), 9223372036854775807), least(sum(r.cost), 9223372036854775807), max(r.last_at)
          FROM use_record r
         WHERE r.day = wanted AND NOT EXISTS (SELECT FROM erasure d WHERE d.workspace_id = r.workspace_id)
         GROUP BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (workspace_id, hour, key_id, environment, outcome, external_id)
        DO UPDATE SET count = kept.count + least(excluded.count, 9223372036854775807 - greatest(kept.count, 0)),
                      cost = kept.cost + least(excluded.cost, 9223372036854775807 - greatest(kept.cost, 0)),
                      last_at = greatest(kept.last_at, excluded.last_at);
    DELETE FROM use_batch b WHERE b.position <= last_one;
    DELETE FROM use_day u WHERE u.day = wanted;
    -- the head's lock first, as recorders do
    UPDATE use_head h SET gone_to = last_one;
    EXECUTE format('DROP TABLE ledger.%I', use_partition(wanted));
    RETURN last_one;
END $$;

-- Carry on by the day what lies before this day's start (µs); answers how many rows there are fewer.
CREATE OR REPLACE FUNCTION ledger.coarsen_carried(before bigint) RETURNS bigint
LANGUAGE sql SET search_path = ledger, pg_temp AS $$
    WITH fine AS (
        DELETE FROM use_carried WHERE hour < before AND hour % 86400000000 <> 0 RETURNING *
    ), days AS (
        INSERT INTO use_carried AS kept
            SELECT workspace_id, hour - hour % 86400000000, key_id, environment, outcome, external_id,
                   least(sum(count), 9223372036854775807), least(sum(cost), 9223372036854775807), max(last_at)
              FROM fine GROUP BY 1, 2, 3, 4, 5, 6
            ON CONFLICT (workspace_id, hour, key_id, environment, outcome, external_id)
            DO UPDATE SET count = kept.count + least(excluded.count, 9223372036854775807 - greatest(kept.count, 0)),
                      cost = kept.cost + least(excluded.cost, 9223372036854775807 - greatest(kept.cost, 0)),
                      last_at = greatest(kept.last_at, excluded.last_at)
            RETURNING xmax = 0 AS new
    )
    SELECT (SELECT count(*) FROM fine) - (SELECT count(*) FROM days WHERE new)
$$;
