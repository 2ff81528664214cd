"""How requests reach the handlers: the hot addresses in bare ASGI, everything else through Litestar."""
