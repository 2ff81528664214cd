"""How the dashboard reaches Postgres, the OpenID provider and the key service."""
