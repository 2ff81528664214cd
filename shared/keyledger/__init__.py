"""Keyledger, the library: what its services and their callers share."""
