-- Rate-limit grants: whose turn it is to grant, what verifiers may take unasked, and the cells whose grants are
-- committed before they are told. Times are µs in grant_term and unix seconds elsewhere, as on the wire.

SET LOCAL ROLE keyledger_owner;

-- One row. Whoever raises the term is the granter, of cells that start before `claimed_until` and not before it
-- was raised; ranges are never claimed twice. `legacy` is what a granter that stopped in order left behind.
CREATE TABLE usage.grant_term (
    single        boolean PRIMARY KEY DEFAULT true CHECK (single),
    term          bigint  NOT NULL,
    owner         text    NOT NULL,
    claimed_until bigint  NOT NULL,
    legacy        bytea
) WITH (fillfactor = 50);

-- Recorded before a verifier is told: it may take 1 / parts of cells that start before `lapses`.
CREATE TABLE usage.grant_right (
    verifier text   PRIMARY KEY,
    parts    bigint NOT NULL,
    lapses   bigint NOT NULL
);

-- A cell of more than a minute, or of a quota. `charged` is the most that can have been spent of it.
CREATE TABLE usage.grant_cell (
    holder   text   COLLATE "C" NOT NULL,
    window_  text   COLLATE "C" NOT NULL,
    start_at bigint NOT NULL,
    ends_at  bigint NOT NULL,
    most     bigint NOT NULL,
    charged  bigint NOT NULL,
    spent    bigint NOT NULL,
    holdings jsonb  NOT NULL,
    PRIMARY KEY (holder, window_, start_at)
) WITH (fillfactor = 50);
CREATE INDEX grant_cell_by_end ON usage.grant_cell (ends_at);

GRANT SELECT, INSERT, UPDATE ON usage.grant_term TO keyledger_usage;
GRANT SELECT, INSERT, UPDATE, DELETE ON usage.grant_right, usage.grant_cell TO keyledger_usage;
GRANT SELECT ON usage.grant_term, usage.grant_right, usage.grant_cell TO keyledger_operator;
