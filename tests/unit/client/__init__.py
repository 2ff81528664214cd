"""The client library: the middleware, the caller, and what a request needs."""
