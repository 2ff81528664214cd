"""The dashboard's own rules and what is decided with them, without a server."""
