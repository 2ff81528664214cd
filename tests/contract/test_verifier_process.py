"""The verifier as a process of its own, on a real NATS and a key service that is told what to say."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import msgspec
import pytest

from keyledger.events import KeyRevoked
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import APPLIED_SUBJECT, HEAD_SUBJECT, USES_SUBJECT, Message
from keyledger.wire import HeadQuestion, Use, UseBatch, frame
from tests.support.certificates import Authority
from tests.support.followed_log import WORKSPACE, FollowedLog, key_created, key_id, token, workspace_created
from tests.support.serving import free_socket, serving
from tests.support.waiting import until

KEY = key_id(1)
SERVICE_KEY = "cvtk_live_service_key"


class KeyService:
    """Feed and head over HTTP, heads and uses over the bus."""

    def __init__(self) -> None:
        self.log = FollowedLog(line=os.urandom(8))
        self.uses: list[Use] = []
        self.applied: list[int] = []
        self.credentials: set[str] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        del receive
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.credentials.add(headers.get("x-api-key", ""))
        query = parse_qs(scope["query_string"].decode())
        if scope["path"] == "/v1/feed":
            page, records = await self.log.page(int(query["after"][0]), int(query["limit"][0]))
            body = frame([msgspec.msgpack.encode(page), *(bytes(record) for record in records)])
        else:
            body = msgspec.msgpack.encode(await self.log.head(HeadQuestion(query["nonce"][0], "")))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async def listen(self, bus: NatsBus) -> None:
        async def head(message: Message) -> None:
            question = msgspec.msgpack.decode(message.body, type=HeadQuestion)
            await bus.publish(message.reply, msgspec.msgpack.encode(await self.log.head(question)))

        async def record(message: Message) -> None:
            batch = msgspec.msgpack.decode(message.body, type=UseBatch)
            self.uses += batch.uses
            await bus.publish(message.reply, msgspec.msgpack.encode(batch.seq + 1))

        async def applied(message: Message) -> None:
            self.applied.append(msgspec.msgpack.decode(message.body, type=HeadQuestion).applied)

        await bus.subscribe(HEAD_SUBJECT, head, queue="keys")
        await bus.subscribe(USES_SUBJECT, record, queue="keys")
        await bus.subscribe(APPLIED_SUBJECT, applied)


@asynccontextmanager
async def verifier_process(
    folder: Path, tls: ssl.SSLContext | None = None, /, *, nats: str, keys_url: str, **more: str
) -> AsyncGenerator[tuple[asyncio.subprocess.Process, httpx2.AsyncClient]]:
    (folder / "p1.pepper").write_text(bytes(range(32)).hex())
    (folder / "service").write_text(SERVICE_KEY)
    with free_socket() as taken:
        port = taken.getsockname()[1]
    environment = {
        "PATH": os.environ["PATH"],
        "KEYLEDGER_PORT": str(port),
        "KEYLEDGER_NATS": nats,
        "KEYLEDGER_KEYS_URL": keys_url,
        "KEYLEDGER_PEPPERS": str(folder),
        "KEYLEDGER_SERVICE_KEY_FILE": str(folder / "service"),
        "KEYLEDGER_SPOOL": str(folder / "spool"),
        "KEYLEDGER_LOG_LEVEL": "DEBUG",
        "KEYLEDGER_DRAIN_SECONDS": "0",
        # nobody grants here unless a test says so
        "KEYLEDGER_LIMITS": "local",
        **more,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.verifier",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        scheme = "https" if tls else "http"
        async with httpx2.AsyncClient(
            base_url=f"{scheme}://127.0.0.1:{port}", timeout=5, verify=tls or True
        ) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ready(client: httpx2.AsyncClient) -> bool:
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx2.TransportError:
        return False


@pytest.fixture
async def keys(nats_url: str) -> AsyncIterator[tuple[KeyService, NatsBus, str]]:
    service = KeyService()
    service.log.append(WORKSPACE, workspace_created())
    service.log.append(KEY, key_created(1, scopes=("read",)))
    bus = await NatsBus.connect(nats_url, name="keys", inbox_prefix="_INBOX_keys")
    await service.listen(bus)
    async with serving(service) as url:
        yield service, bus, url
    await bus.close()


async def test_it_follows_answers_reports_and_ends(
    keys: tuple[KeyService, NatsBus, str], nats_url: str, tmp_path: Path
) -> None:
    service, bus, url = keys
    async with verifier_process(tmp_path, nats=nats_url, keys_url=url) as (process, client):
        await until(lambda: ready(client), within=20, describe="the verifier is ready")
        for path in ("/v1/gateway?scopes=read", "/v1/gateway/x"):
            allowed = await client.post(path, headers={"X-API-Key": token(1)}, content=b"x" * 200_000)
            assert (allowed.status_code, allowed.headers["content-length"]) == (200, "0")
        head = await client.head("/v1/gateway", headers={"X-API-Key": token(1, 2)})
        assert (head.status_code, head.content) == (401, b"")
        large = await client.post("/v1/verify", content=b"x" * 200_000)
        assert large.status_code == 413
        assert "server" not in large.headers

        event = service.log.append(KEY, KeyRevoked())
        subject = f"kl.live.{service.log.epoch.line.hex()}.{WORKSPACE}.{KEY}"
        await bus.publish(subject, msgspec.msgpack.encode(event))
        asked = {"key": token(1), "min_position": 3, "epoch": service.log.epoch.text}
        assert (await client.post("/v1/verify", json=asked)).json()["code"] == "REVOKED"

        async def receipt() -> bool:
            return 3 in service.applied

        await until(receipt)
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    counted = {use.outcome: 0 for use in service.uses}
    for use in service.uses:
        counted[use.outcome] += use.count
    assert counted == {"VALID": 2, "NOT_FOUND": 1, "REVOKED": 1}
    assert not list((tmp_path / "spool").iterdir())
    assert service.credentials == {SERVICE_KEY}
    for secret in (token(1), token(1, 2), SERVICE_KEY):
        assert secret.encode() not in output


async def test_without_a_broker_it_still_follows_by_the_feed(
    keys: tuple[KeyService, NatsBus, str], tmp_path: Path
) -> None:
    service, _, url = keys
    async with verifier_process(tmp_path, nats="nats://127.0.0.1:1", keys_url=url) as (_, client):
        await until(lambda: ready(client), within=20, describe="the verifier is ready")
        assert (await client.get("/readyz")).json()["status"] == "degraded"
        service.log.append(KEY, KeyRevoked())

        async def refused() -> bool:
            asked = {"key": token(1), "min_position": 3}
            return (await client.post("/v1/verify", json=asked)).json().get("code") == "REVOKED"

        await until(refused, within=10)


async def test_callers_may_have_to_show_a_certificate(
    keys: tuple[KeyService, NatsBus, str], nats_url: str, tmp_path: Path
) -> None:
    _, _, url = keys
    ours = Authority(tmp_path, "ours")
    certificate, key = ours.issue("server")
    settings = {"CERT": str(certificate), "KEY": str(key), "CLIENT_CA": str(ours.file)}
    tls = {f"KEYLEDGER_TLS_{name}": value for name, value in settings.items()}
    caller = ours.client(ours.issue("caller"))
    async with verifier_process(tmp_path, caller, nats=nats_url, keys_url=url, **tls) as (_, client):
        await until(lambda: ready(client), within=20, describe="the verifier is ready")
        assert (await client.post("/v1/verify", json={"key": token(1)})).json()["valid"]
        async with httpx2.AsyncClient(base_url=client.base_url, verify=ours.client(), timeout=5) as stranger:
            with pytest.raises(httpx2.TransportError):
                await stranger.get("/healthz")


async def test_told_to_stop_it_says_so_and_answers_until_nobody_asks(
    keys: tuple[KeyService, NatsBus, str], nats_url: str, tmp_path: Path
) -> None:
    _, _, url = keys
    drain = {"KEYLEDGER_DRAIN_SECONDS": "60"}
    async with verifier_process(tmp_path, nats=nats_url, keys_url=url, **drain) as (process, client):
        await until(lambda: ready(client), within=20, describe="the verifier is ready")
        process.send_signal(signal.SIGTERM)

        async def stopping() -> bool:
            return (await client.get("/readyz")).json()["status"] == "stopping"

        await until(stopping)
        assert (await client.get("/readyz")).status_code == 503
        answer = await client.post("/v1/verify", json={"key": token(1)})
        assert (answer.json()["code"], answer.headers["connection"]) == ("VALID", "close")
        # whoever cannot wait says it twice
        process.send_signal(signal.SIGTERM)
        output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        ({"KEYLEDGER_TLS_CERT": "/nowhere", "KEYLEDGER_TLS_KEY": "/nowhere"}, 2, b"KEYLEDGER_TLS_CERT"),
        ({"KEYLEDGER_HOST": "127.0.0.1"}, 1, b"KEYLEDGER_PORT"),
    ],
)
async def test_what_cannot_be_listened_with_ends_it(
    tmp_path: Path, wrong: dict[str, str], code: int, says: bytes
) -> None:
    with free_socket() as taken:
        taken.listen()
        port = str(taken.getsockname()[1])
        async with verifier_process(
            tmp_path, nats="nats://127.0.0.1:1", keys_url="http://127.0.0.1:1", KEYLEDGER_PORT=port, **wrong
        ) as (process, _):
            output, _ = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == code
    assert says in output


async def test_settings_that_cannot_be_used_end_it_with_2(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.verifier",
        env={"PATH": os.environ["PATH"], "KEYLEDGER_SPOOL": str(tmp_path)},
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 2
    assert b"KEYLEDGER_PEPPERS is missing" in told
