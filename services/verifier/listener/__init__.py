"""The verifier's own HTTP/1.1 server: strict as RFC 9112, the hot addresses answered where they arrive."""
