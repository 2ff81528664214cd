"""For callers: the async client and the ASGI middleware."""
