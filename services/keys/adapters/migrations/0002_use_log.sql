-- The use log: what verifiers counted, each batch once for ever, at dense positions in commit order.
-- Same mechanism as the key log, without a chain: `use_head` is the last lock of the transaction.

SET LOCAL ROLE keyledger_owner;

CREATE TABLE ledger.use_head (
    one      boolean PRIMARY KEY DEFAULT true CHECK (one),
    position bigint NOT NULL,
    at       bigint NOT NULL
) WITH (fillfactor = 10);
INSERT INTO ledger.use_head (position, at) VALUES (0, 0);

-- One verifier process; a batch below `next_seq` is recorded already.
CREATE TABLE ledger.use_source (
    boot     text   PRIMARY KEY,
    next_seq bigint NOT NULL,
    at       bigint NOT NULL
) WITH (fillfactor = 70);

CREATE TABLE ledger.use_batch (
    position bigint PRIMARY KEY,
    boot     text   NOT NULL,
    seq      bigint NOT NULL,
    at       bigint NOT NULL,
    UNIQUE (boot, seq)
);

CREATE TABLE ledger.use_record (
    position     bigint NOT NULL,   -- of its batch
    workspace_id text COLLATE "C" NOT NULL,
    key_id       text COLLATE "C" NOT NULL,
    environment  text   NOT NULL,
    minute       bigint NOT NULL,
    outcome      text   NOT NULL,
    count        bigint NOT NULL,
    cost         bigint NOT NULL,
    last_at      bigint NOT NULL
);
CREATE INDEX use_record_by_position ON ledger.use_record (position);

-- Record one batch unless it is there already; answers the seq expected next from this source.
CREATE FUNCTION ledger.record_uses(
    source text, batch_seq bigint, now bigint,
    workspaces text[], keys text[], environments text[], minutes bigint[], outcomes text[],
    counts bigint[], costs bigint[], lasts bigint[]
) RETURNS TABLE (next_seq bigint, recorded boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
DECLARE
    expected bigint;
    head     use_head%ROWTYPE;
BEGIN
    INSERT INTO use_source AS s (boot, next_seq, at) VALUES (source, 0, now)
        ON CONFLICT (boot) DO UPDATE SET at = greatest(s.at, now) RETURNING s.next_seq INTO expected;
    IF batch_seq < expected THEN
        RETURN QUERY SELECT expected, false;
        RETURN;
    END IF;
    UPDATE use_source s SET next_seq = batch_seq + 1 WHERE s.boot = source;
    UPDATE use_head h SET position = h.position + 1, at = greatest(h.at, now) RETURNING * INTO head;
    INSERT INTO use_batch VALUES (head.position, source, batch_seq, head.at);
    INSERT INTO use_record
        SELECT head.position, u.* FROM unnest(
            workspaces, keys, environments, minutes, outcomes, counts, costs, lasts) AS u;
    RETURN QUERY SELECT batch_seq + 1, true;
END $$;

REVOKE ALL ON FUNCTION ledger.record_uses(
    text, bigint, bigint, text[], text[], text[], bigint[], text[], bigint[], bigint[], bigint[]) FROM PUBLIC;
GRANT SELECT ON ledger.use_head, ledger.use_source, ledger.use_batch, ledger.use_record TO keyledger_keys;
GRANT EXECUTE ON FUNCTION ledger.record_uses(
    text, bigint, bigint, text[], text[], text[], bigint[], text[], bigint[], bigint[], bigint[]) TO keyledger_keys;
