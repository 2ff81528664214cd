"""What the key service does for each command: load, decide, append, answer."""
