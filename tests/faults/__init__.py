"""Faults: real processes are killed, frozen and cut off; afterwards their history is held against the log."""
