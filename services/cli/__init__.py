"""The `keyledger` command."""
