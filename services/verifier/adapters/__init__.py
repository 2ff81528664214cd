"""The verifier's ways to the key service."""
