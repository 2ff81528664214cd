"""What an API protected by Keyledger looks like."""
