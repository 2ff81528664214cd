"""The library without a server: tokens, digests, time, refusals, events, and what services are built from."""
