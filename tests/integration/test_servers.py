"""The servers of the tests themselves: what every other integration test takes for granted."""

import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import nats
import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig

from tests.support import servers as sources
from tests.support import servers_fresh as fresh
from tests.support.servers import Servers
from tests.support.servers_containers import missing
from tests.support.servers_options import NATS_ADMIN, ServersUnavailableError
from tests.support.servers_ready import query_row

MAX_PAYLOAD = 4 * 1024 * 1024


async def test_postgres_is_18_and_does_not_acknowledge_before_fsync(servers: Servers) -> None:
    row = await query_row(
        servers.postgres,
        "SELECT current_setting('server_version_num')::int / 10000 AS major, current_database() AS name,"
        " current_setting('fsync') AS fsync, current_setting('synchronous_commit') AS commit",
    )
    assert dict(row) == {"major": 18, "fsync": "on", "commit": "on", "name": "postgres"}


async def test_nats_has_jetstream_and_takes_four_megabytes(servers: Servers, clean_streams: None) -> None:
    client = await _connected(servers.nats)
    try:
        assert client.max_payload == MAX_PAYLOAD
        stream = f"T{secrets.token_hex(8)}"
        jetstream = client.jetstream(timeout=5)
        await jetstream.add_stream(StreamConfig(name=stream, subjects=[f"{stream}.>"]))
        acknowledged = await jetstream.publish(f"{stream}.a", b"kept")
        assert (acknowledged.stream, acknowledged.seq) == (stream, 1)
        assert (await jetstream.get_msg(stream, 1)).data == b"kept"
    finally:
        await client.close()


async def test_two_databases_are_separate_and_each_starts_empty(servers: Servers, database: str) -> None:
    tables = "SELECT count(*) AS n FROM pg_tables WHERE schemaname = 'public'"
    async with fresh.database(servers.postgres) as other:
        await _execute(database, "CREATE TABLE mine (id int)")
        assert (await query_row(database, tables))["n"] == 1
        assert (await query_row(other, tables))["n"] == 0


async def test_a_database_is_dropped_though_somebody_is_connected(servers: Servers) -> None:
    async with fresh.database(servers.postgres) as dsn:
        forgotten = await asyncpg.connect(dsn, timeout=5)
    forgotten.terminate()
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await query_row(dsn, "SELECT 1")


async def test_only_streams_that_came_meanwhile_are_deleted(nats_url: str) -> None:
    client = await _connected(nats_url)
    jetstream = client.jetstream(timeout=5)
    older, newer = f"T{secrets.token_hex(8)}", f"T{secrets.token_hex(8)}"
    try:
        async with fresh.streams(nats_url):
            await jetstream.add_stream(StreamConfig(name=older, subjects=[f"{older}.>"]))
            async with fresh.streams(nats_url):
                await jetstream.add_stream(StreamConfig(name=newer, subjects=[f"{newer}.>"]))
            left = await fresh.stream_names(client)
            assert (older in left, newer in left) == (True, False)
        assert older not in await fresh.stream_names(client)
    finally:
        await client.close()


@pytest.mark.parametrize("source", ["wheels", "containers"])
async def test_a_started_source_gives_postgres_18_and_a_nats_that_syncs_always(source: str) -> None:
    asked = os.environ.get(sources.SOURCE) == "containers"
    if source == "containers" and not asked and (reason := missing(os.environ)):
        pytest.skip(f"containers: {reason}")
    environment = {name: value for name, value in os.environ.items() if name.endswith("_IMAGE")}
    environment[sources.SOURCE] = source
    async with sources.postgres(environment) as dsn, sources.nats(environment) as url:
        assert (await query_row(dsn, "SHOW server_version"))["server_version"].startswith("18.")
        assert (await query_row(dsn, "SHOW max_connections"))["max_connections"] == "200"
        varz = await _varz(url)
        assert varz["max_payload"] == MAX_PAYLOAD
        assert varz["jetstream"]["config"]["sync_always"] is True
        assert varz["feature_flags"]["js_ack_fc_v2"] is False


async def test_what_was_started_is_gone_afterwards() -> None:
    async with sources.postgres({}) as dsn, sources.nats({}) as url:
        pass
    with pytest.raises(OSError):
        await query_row(dsn, "SELECT 1")
    with pytest.raises(ServersUnavailableError, match="no nats-server greets"):
        async with sources.nats({sources.NATS: url}):
            pass


async def test_given_servers_are_used_as_they_are(servers: Servers) -> None:
    given = {sources.POSTGRES: servers.postgres, sources.NATS: servers.nats, sources.SOURCE: "containers"}
    async with sources.postgres(given) as dsn, sources.nats(given) as url:
        assert Servers(postgres=dsn, nats=url) == servers
    assert (await query_row(servers.postgres, "SELECT 1 AS one"))["one"] == 1


async def test_a_given_postgres_must_be_an_admins(servers: Servers) -> None:
    name = f"keyledger_test_{secrets.token_hex(8)}"
    parts = urlsplit(servers.postgres)
    where = parts.netloc.rpartition("@")[2]
    await _execute(servers.postgres, f"CREATE ROLE {name} LOGIN PASSWORD '{name}'")
    try:
        given = {sources.POSTGRES: parts._replace(netloc=f"{name}:{name}@{where}").geturl()}
        with pytest.raises(ServersUnavailableError, match="may not create databases and roles"):
            async with sources.postgres(given):
                pass
    finally:
        await _execute(servers.postgres, f"DROP ROLE {name}")


async def test_containers_without_an_engine_are_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(ServersUnavailableError, match="no Docker engine answers"):
        async with sources.postgres({sources.SOURCE: "containers"}):
            pass


def test_an_unknown_source_is_an_error() -> None:
    with pytest.raises(ServersUnavailableError, match="'wheels' or 'containers'"):
        sources.source({sources.SOURCE: "cloud"})


async def _connected(url: str) -> Client:
    return await nats.connect(url, connect_timeout=5, allow_reconnect=False)


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn, timeout=5, command_timeout=30)
    try:
        await connection.execute(statement)
    finally:
        await connection.close(timeout=5)


async def _varz(url: str) -> dict[str, Any]:
    """What a NATS that we started says of itself, asked on its system account."""
    parts = urlsplit(url)
    admin = parts._replace(netloc=f"{NATS_ADMIN}:{parts.password}@{parts.hostname}:{parts.port}").geturl()
    client = await _connected(admin)
    try:
        answer = await client.request("$SYS.REQ.SERVER.PING.VARZ", timeout=5)
    finally:
        await client.close()
    return json.loads(answer.data)["data"]
