"""The addresses of the usage service: what comes in, and what goes out."""
