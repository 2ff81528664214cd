"""What only the services need: Postgres, NATS, HTTP, secrets."""
