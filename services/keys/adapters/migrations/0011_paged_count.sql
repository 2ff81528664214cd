-- The keys without a digest under a pepper are counted page by page, with a statement of the reader's own: over a
-- million states at once this function came near the time that a statement has.

SET LOCAL ROLE keyledger_owner;

DROP FUNCTION ledger.keys_without_digest(text, bigint);
