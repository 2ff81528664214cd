"""The verifier: an HTTP face on keyledger.verification."""
