"""Logs and metrics.

Logs are JSON lines built from an allowlist of fields: what is not named here is not written, so that a
token, a header or a body cannot slip into a log by being passed along.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

ALLOWED = frozenset(
    "event level timestamp logger service error where request_id position head epoch line stream type "
    "schema_version count seq boot port host state status seconds attempt why path reason subject bytes "
    "method migration name expected delay age_ms verifier dropped lost after before "
    "shared_position lost_position pepper pid term went_on".split()
)


def _only_allowed(_: Any, __: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name in [name for name in entry if name not in ALLOWED]:
        entry[name] = "(withheld)"
    return entry


def configure_logging(service: str, level: str = "INFO") -> None:
    """Write this process's log as JSON lines to stderr; `level` is a standard level name."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _only_allowed,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # libraries speak only when something is wrong, and only by their own words
    logging.basicConfig(level=logging.WARNING, format=f"{service} %(name)s %(levelname)s %(message)s")


def new_registry() -> CollectorRegistry:
    """A registry of this process's own, with the process's vital signs in it."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def exposition(registry: CollectorRegistry) -> tuple[bytes, str]:
    """The body and content type of `/metrics`."""
    return generate_latest(registry), CONTENT_TYPE_LATEST
