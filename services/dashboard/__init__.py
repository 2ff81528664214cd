"""The dashboard: people sign in, and see and manage keys by the public contract of the other services."""
