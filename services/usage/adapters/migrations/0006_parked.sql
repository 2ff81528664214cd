-- Batches of the use log that cannot be counted are passed over, and stand here until a rebuild can count them.

SET LOCAL ROLE keyledger_owner;

-- `uses` are the sums that the batch holds, `why` the number that is wrong with one of them or the database's word
-- for it. No counter has them, and no derivation. Written with the position that passes over them.
CREATE TABLE usage.parked (
    position  bigint      PRIMARY KEY,
    uses      integer     NOT NULL,
    why       text        NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT, INSERT, UPDATE, DELETE ON usage.parked TO keyledger_usage;
GRANT SELECT ON usage.parked TO keyledger_operator;
