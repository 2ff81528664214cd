-- Secrets beyond those we mint: imported tokens are unique across all workspaces, and peppers come and go.

SET LOCAL ROLE keyledger_owner;

-- The stream `peppers` of the system workspace has a state of its own: which pepper is active, which are retired.
ALTER TABLE ledger.state DROP CONSTRAINT state_kind_check;
ALTER TABLE ledger.state ADD CONSTRAINT state_kind_check CHECK (kind IN ('key', 'workspace', 'peppers'));

-- Imported tokens by a keyed name: HMAC under the seal secret of the token's SHA-256. The name is the same under
-- every pepper, so it finds a key whose pepper was lost; without the seal secret it tells nothing about a token.
CREATE TABLE ledger.foreign_token (
    name         bytea PRIMARY KEY CHECK (octet_length(name) = 32),
    key_id       text  COLLATE "C" NOT NULL UNIQUE,
    workspace_id text  COLLATE "C" NOT NULL
);
CREATE INDEX foreign_token_by_workspace ON ledger.foreign_token (workspace_id);

-- Take these names for these keys, all or none; answers the ordinals of those that are taken already. Two that
-- race for one name: the later fails with unique_violation, and finds the name taken when it asks again.
CREATE FUNCTION ledger.claim_tokens(names bytea[], keys text[], workspace text) RETURNS SETOF bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = ledger, pg_temp AS $$
BEGIN
    RETURN QUERY SELECT asked.ordinal FROM unnest(names) WITH ORDINALITY AS asked (name, ordinal)
        WHERE EXISTS (SELECT FROM foreign_token f WHERE f.name = asked.name) ORDER BY asked.ordinal;
    IF NOT FOUND THEN
        INSERT INTO foreign_token
            SELECT asked.name, asked.key_id, workspace FROM unnest(names, keys) AS asked (name, key_id)
             ORDER BY asked.name;
    END IF;
END $$;

-- How many keys that are not revoked have a secret which may still be presented and no digest under this pepper.
CREATE FUNCTION ledger.keys_without_digest(pepper text, now bigint) RETURNS bigint
LANGUAGE sql STABLE AS $$
    SELECT count(*) FROM ledger.state s
     WHERE s.kind = 'key' AND NOT s.body ? 'revoked_at'
       AND EXISTS (
           SELECT FROM jsonb_array_elements(s.body -> 'secrets') AS secret
            WHERE NOT secret -> 'digests' ? pepper
              AND coalesce((secret ->> 'valid_until')::bigint > now, true)
              AND coalesce((secret ->> 'dropped_at')::bigint > now, true))
$$;

REVOKE ALL ON FUNCTION ledger.claim_tokens(bytea[], text[], text), ledger.keys_without_digest(text, bigint)
    FROM PUBLIC;
GRANT SELECT ON ledger.foreign_token TO keyledger_keys;
GRANT EXECUTE ON FUNCTION ledger.claim_tokens(bytea[], text[], text), ledger.keys_without_digest(text, bigint)
    TO keyledger_keys;
