"""What the verifier does with a request: read the needs, judge, count, answer."""
