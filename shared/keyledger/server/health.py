"""The three addresses every service answers without a credential: `/healthz`, `/readyz`, `/metrics`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from prometheus_client import CollectorRegistry

from keyledger.server.telemetry import exposition


class Readiness(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of `/readyz`. `status` is `ready`, `degraded` (ready all the same) or why it is not.

    `parked` is how many records of a log were passed over, since they cannot be counted.
    """

    status: str
    position: int | None = None
    head: int | None = None
    epoch: str | None = None
    age_ms: int | None = None
    parked: int | None = None

    @property
    def ready(self) -> bool:
        """Whether the service can do its job."""
        return self.status in ("ready", "degraded")


def health_routes(
    registry: CollectorRegistry, readiness: Callable[[], Awaitable[Readiness]]
) -> Sequence[HTTPRouteHandler]:
    """The three handlers; `readiness` is asked anew each time and answers within a second."""

    @get("/healthz", summary="Is the process alive", security=[], opt={"open": True})
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", summary="Can it do its job", security=[], opt={"open": True})
    async def readyz() -> Response[Readiness]:
        found = await readiness()
        return Response(found, status_code=200 if found.ready else 503)

    @get("/metrics", summary="Prometheus metrics", security=[], opt={"open": True}, media_type="text/plain")
    async def metrics() -> Response[bytes]:
        body, media_type = exposition(registry)
        headers: dict[str, Any] = {"content-type": media_type}
        return Response(body, headers=headers, media_type=media_type)

    return [healthz, readyz, metrics]
