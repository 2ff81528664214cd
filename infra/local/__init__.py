"""The local run: Postgres and NATS from their wheels, the services beside them, start to stop."""
