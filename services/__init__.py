"""The services: keys, verifier, usage, and the command line that runs them."""
