"""The counters in Postgres; the key service as feed and as the one who says who may read."""
