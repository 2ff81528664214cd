"""A key service that only serves uses and says who may read them."""

import json
from typing import Any

import msgspec

from keyledger.events import Epoch
from keyledger.wire import Page, RecordedUses, frame

OWN_KEY = "cvtk_live_ours"


class FakeKeys:
    """`GET /v1/feed/uses` over `batches` for our own key, and `POST /v1/authorize` over `allowed`."""

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.batches: list[RecordedUses] = []
        self.allowed: set[tuple[str, str]] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Be an ASGI application."""
        key = dict(scope["headers"]).get(b"x-api-key", b"").decode()
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["path"] == "/v1/feed/uses":
            status, told = (200, self._page(scope)) if key == OWN_KEY else (401, b"{}")
        else:
            status, error = self._authorize(key, json.loads(body))
            told = json.dumps({"error": error, "message": "told by the key service"}).encode()
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": told})

    def _page(self, scope: Any) -> bytes:
        query = dict(part.split("=") for part in scope["query_string"].decode().split("&"))
        after, limit = int(query["after"]), int(query["limit"])
        told = [batch for batch in self.batches if batch.position > after][:limit]
        head = self.batches[-1].position if self.batches else 0
        page = Page(self.epoch.number, self.epoch.line, head, b"", told[-1].position if told else after)
        return frame([msgspec.msgpack.encode(record) for record in (page, *told)])

    def _authorize(self, key: str, asked: dict[str, str]) -> tuple[int, str]:
        if key not in {known for known, _ in self.allowed}:
            return 401, "invalid_api_key"
        return (200, "") if (key, asked["workspace_id"]) in self.allowed else (404, "not_found")
