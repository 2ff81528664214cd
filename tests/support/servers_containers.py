"""Servers from containers, by testcontainers, where a Docker engine answers.

`KEYLEDGER_TEST_POSTGRES_IMAGE` and `KEYLEDGER_TEST_NATS_IMAGE` name other images than the official
ones; they must behave like these. An image that is not here is pulled. testcontainers also starts its
own reaper's image, unless `TESTCONTAINERS_RYUK_DISABLED=true`: our containers are removed without it,
except when the tests are killed.
"""

import secrets
import socket
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager

import docker
from docker.errors import DockerException
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.docker_client import get_docker_host

from tests.support import servers_options as options
from tests.support.servers_options import ServersUnavailableError
from tests.support.servers_ready import PATIENCE, nats_answers, postgres_answers
from tests.support.waiting import until

POSTGRES_IMAGE = "KEYLEDGER_TEST_POSTGRES_IMAGE"
NATS_IMAGE = "KEYLEDGER_TEST_NATS_IMAGE"
DEFAULT_HOST = "unix:///var/run/docker.sock"
DEFAULTS = {POSTGRES_IMAGE: "postgres:18", NATS_IMAGE: "nats:2.15"}
POSTGRES_PORT = 5432
NATS_PORT = 4222
CONF = "/keyledger/nats.conf"


def engine_missing() -> str | None:
    """Return why no Docker engine can be used here; None when one answers."""
    host = get_docker_host() or DEFAULT_HOST
    try:
        if host.startswith("unix://"):
            # Asked first because the docker package leaks its socket when nobody listens.
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(5)
                probe.connect(host.removeprefix("unix://"))
        docker.from_env(timeout=5).close()
    except (OSError, DockerException) as error:
        return f"no Docker engine answers at {host} ({error})"
    return None


def missing(environment: Mapping[str, str]) -> str | None:
    """Return what a run with containers lacks here: the engine, or an image it would pull; else None."""
    if reason := engine_missing():
        return reason
    images = [testcontainers_config.hub_image_name_prefix + _image(environment, name) for name in DEFAULTS]
    if not testcontainers_config.ryuk_disabled:
        images.append(testcontainers_config.ryuk_image)
    client = docker.from_env(timeout=5)
    try:
        here = {tag for image in client.images.list() for tag in image.tags}
    finally:
        client.close()
    absent = [image for image in images if image not in here]
    return f"the Docker engine does not hold {', '.join(absent)}" if absent else None


@asynccontextmanager
async def postgres(environment: Mapping[str, str]) -> AsyncGenerator[str]:
    """Yield the superuser's DSN of a Postgres in a new container, which is removed at the end.

    Raises `ServersUnavailableError` when there is no engine or no image.
    """
    password = secrets.token_hex(16)
    with _container(environment, POSTGRES_IMAGE) as container:
        container.with_exposed_ports(POSTGRES_PORT).with_envs(
            POSTGRES_USER="postgres", POSTGRES_PASSWORD=password, POSTGRES_DB="postgres"
        )
        container.with_env("POSTGRES_INITDB_ARGS", " ".join(options.INITDB))
        container.with_command(["postgres", *options.POSTGRES])
        host, port = _started(container, POSTGRES_PORT)
        dsn = f"postgresql://postgres:{password}@{host}:{port}/postgres"
        with _explained(container):
            # Its first start, which makes the database, does not listen on TCP: an answer is the last one's.
            await until(lambda: postgres_answers(dsn), within=PATIENCE, describe=f"{container.image} answers")
        yield dsn


@asynccontextmanager
async def nats(environment: Mapping[str, str]) -> AsyncGenerator[str]:
    """Yield the URL of a nats-server with JetStream in a new container, which is removed at the end.

    Raises `ServersUnavailableError` when there is no engine or no image.
    """
    password = secrets.token_hex(16)
    conf = options.nats_conf(listen=f'listen: "0.0.0.0:{NATS_PORT}"', store="/data", password=password)
    with _container(environment, NATS_IMAGE) as container:
        # Copied in, not mounted: the engine may be on another machine, and the image may have no shell.
        container.with_exposed_ports(NATS_PORT).with_copy_into_container(conf.encode(), CONF)
        container.with_command(["-c", CONF])
        host, port = _started(container, NATS_PORT)
        with _explained(container):
            await until(
                lambda: nats_answers(host, port), within=PATIENCE, describe=f"{container.image} answers"
            )
        yield f"nats://{options.NATS_USER}:{password}@{host}:{port}"


@contextmanager
def _container(environment: Mapping[str, str], variable: str) -> Generator[DockerContainer]:
    """Yield a container of the image that the variable, or its default, names; it is removed at the end."""
    if reason := engine_missing():
        message = f"containers were asked for, but {reason}"
        raise ServersUnavailableError(message)
    container = DockerContainer(_image(environment, variable))
    try:
        yield container
    finally:
        container.stop()


def _image(environment: Mapping[str, str], variable: str) -> str:
    """The name of the image that the variable, or its default, gives."""
    return environment.get(variable) or DEFAULTS[variable]


def _started(container: DockerContainer, port: int) -> tuple[str, int]:
    """Start it and return the host and port where its port is reached from here."""
    try:
        container.start()
    except (OSError, DockerException) as error:
        message = f"no container of {container.image} ({', '.join(DEFAULTS)} name other images): {error}"
        raise ServersUnavailableError(message) from error
    with _explained(container):
        return container.get_container_host_ip(), container.get_exposed_port(port)


@contextmanager
def _explained(container: DockerContainer) -> Generator[None]:
    """Add the end of the container's log to what goes wrong inside."""
    try:
        yield
    except Exception as error:
        out, err = container.get_logs()
        error.add_note(f"{container.image}: …{(out + err).decode(errors='replace')[-2000:]}")
        raise
