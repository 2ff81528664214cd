"""What the verifier's service decides itself, pure: which event lies behind a refusal."""
