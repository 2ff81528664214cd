"""The addresses of the dashboard: what comes in, and what goes out."""
