"""The key service's ports over Postgres."""
