-- Who signs in, in which sessions, and who was invited. What says who somebody is can be changed and erased.
-- Times are µs since the Unix epoch. Of tokens there are digests here, and nothing that could be presented.

CREATE SCHEMA dashboard AUTHORIZATION keyledger_owner;
SET LOCAL ROLE keyledger_owner;

-- An erased person has neither issuer nor subject: whoever signs in so again is somebody new.
CREATE TABLE dashboard.person (
    user_id      text   COLLATE "C" PRIMARY KEY,
    issuer       text   COLLATE "C",
    subject      text   COLLATE "C",
    name         text,
    mail         text,
    workspace_id text   COLLATE "C",
    created_at   bigint NOT NULL,
    erased_at    bigint,
    UNIQUE (issuer, subject),
    CHECK ((issuer IS NULL) = (erased_at IS NOT NULL)),
    CHECK (erased_at IS NULL OR (subject IS NULL AND name IS NULL AND mail IS NULL))
);

-- A family of refresh tokens: each has the same handle and a secret of its own, of which the last is good.
-- tell_until: until when the key service is to be told that the session has ended; null once it knows.
CREATE TABLE dashboard.session (
    session_id   text   COLLATE "C" PRIMARY KEY,
    user_id      text   COLLATE "C" NOT NULL REFERENCES dashboard.person,
    workspace_id text   COLLATE "C",
    role         text   COLLATE "C",
    handle       bytea  NOT NULL UNIQUE,
    secret       bytea  NOT NULL,
    created_at   bigint NOT NULL,
    renewed_at   bigint NOT NULL,
    ended_at     bigint,
    tell_until   bigint
) WITH (fillfactor = 70);
CREATE INDEX session_by_user ON dashboard.session (user_id);
CREATE INDEX session_by_renewal ON dashboard.session (renewed_at);
CREATE INDEX session_untold ON dashboard.session (tell_until) WHERE tell_until IS NOT NULL;

CREATE TABLE dashboard.spent (
    digest bytea  PRIMARY KEY,
    until  bigint NOT NULL
);
CREATE INDEX spent_until ON dashboard.spent (until);

-- The private half is sealed under a secret that is not in this database.
CREATE TABLE dashboard.signing_key (
    kid       text   COLLATE "C" PRIMARY KEY,
    starts_at bigint NOT NULL,
    sealed    bytea  NOT NULL
);

CREATE TABLE dashboard.invitation (
    id           text   COLLATE "C" PRIMARY KEY,
    workspace_id text   COLLATE "C" NOT NULL,
    role         text   COLLATE "C" NOT NULL,
    invited_by   text   COLLATE "C" NOT NULL REFERENCES dashboard.person,
    note         text   NOT NULL,
    digest       bytea  NOT NULL UNIQUE,
    created_at   bigint NOT NULL,
    expires_at   bigint NOT NULL
);
CREATE INDEX invitation_of_workspace ON dashboard.invitation (workspace_id, created_at);
CREATE INDEX invitation_by_inviter ON dashboard.invitation (invited_by);

GRANT USAGE ON SCHEMA dashboard TO keyledger_dashboard;
GRANT SELECT, INSERT, UPDATE ON dashboard.person TO keyledger_dashboard;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    dashboard.session, dashboard.spent, dashboard.signing_key, dashboard.invitation TO keyledger_dashboard;
