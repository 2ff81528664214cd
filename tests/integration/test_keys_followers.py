"""What followers and operators get: feeds, head, stream, receipts, health, metrics, documentation."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import LogCapture

from keyledger import events, wire
from keyledger.event_reader import Unknown
from keyledger.server import jetstream
from keyledger.verification.bus import NatsBus
from keyledger.verification.ports import (
    APPLIED_SUBJECT,
    HEAD_SUBJECT,
    LIVE_SUBJECT,
    TICK_SUBJECT,
    USES_SUBJECT,
    Message,
)
from keyledger.wire import Followed, Head, HeadQuestion, Page, RecordedUses, Use, UseBatch
from tests.support.keys import Caller, House, Keys, everything_stored, house, refused
from tests.support.servers import Servers
from tests.support.waiting import until

USE = Use("ws_" + "1" * 22, "key_" + "1" * 22, "live", 60_000_000, "VALID", 3, 3, 61_000_000)


@pytest.fixture(scope="module")
async def here(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    async with house(servers, tmp_path_factory.mktemp("home")) as found:
        yield found


@pytest.fixture
async def keys(here: House) -> Keys:
    return Keys(await here.workspace())


@pytest.fixture
async def bus(here: House) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.connect(here.nats, name="test", inbox_prefix="_INBOX_test")
    yield bus
    await bus.close()


async def page(by: Caller, after: int, limit: int = 1000) -> tuple[Page, list[Followed]]:
    answer = await by("GET", f"/v1/feed?after={after}&limit={limit}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    first, *rest = wire.unframe(answer.content)
    return (
        msgspec.msgpack.decode(first, type=Page),
        [msgspec.msgpack.decode(record, type=Followed) for record in rest],
    )


async def rotated(here: House, keys: Keys) -> dict[str, Any]:
    made = await here.key(keys.workspace.rpartition("/")[2], name="Ünï", metadata={"a": "b"}, external_id="o")
    return await here.admin.ok("POST", keys.one(made["id"], "rotate"), {"overlap_seconds": 60})


async def test_the_feed_is_the_log_chained_opened_and_without_proofs(here: House, keys: Keys) -> None:
    key = await rotated(here, keys)
    head, found = await page(here.follower, 0)
    assert head.head_position == head.last_position == key["position"] == len(found)
    assert [event.position for event in found] == list(range(1, len(found) + 1))
    hashes = [events.GENESIS, *(event.hash for event in found)]
    assert [event.previous_hash for event in found] == hashes[:-1]
    assert head.head_hash == hashes[-1]
    for event in found:
        assert b"proof" not in event.data
        assert b"argon2" not in event.data
        assert not isinstance(events.decode(event.type, event.schema_version, event.data), Unknown)
    created = json.loads(found[-2].data)
    assert (created["private"]["name"], created["private"]["metadata"]) == ("Ünï", {"a": "b"})
    assert list(created["secret"]["digests"]) == ["p1"]


async def test_the_feed_is_paged_by_position(here: House, keys: Keys) -> None:
    last = (await rotated(here, keys))["position"]
    _, whole = await page(here.follower, 0)
    paged: list[Followed] = []
    while True:
        head, found = await page(here.follower, len(paged), limit=2)
        assert head.last_position == len(paged) + len(found)
        if not found:
            break
        paged += found
    assert paged == whole
    assert len(whole) == last
    for beyond in (last, last + 5, 2**62):
        head, found = await page(here.follower, beyond)
        assert (head.head_position, head.last_position, found) == (last, beyond, [])


async def test_uses_are_recorded_once_and_fed_densely(here: House, bus: NatsBus) -> None:
    async def send(seq: int) -> int:
        body = msgspec.msgpack.encode(UseBatch("boot-a", seq, (USE,)))
        return msgspec.msgpack.decode((await bus.request(USES_SUBJECT, body, timeout=3)).body)

    assert [await send(seq) for seq in (0, 1, 1, 0, 5, 3)] == [1, 2, 2, 2, 6, 6]
    answer = await here.follower("GET", "/v1/feed/uses")
    head, *rest = wire.unframe(answer.content)
    batches = [msgspec.msgpack.decode(record, type=RecordedUses) for record in rest]
    assert [batch.position for batch in batches] == [1, 2, 3]
    assert all(batch.uses == (USE,) for batch in batches)
    assert msgspec.msgpack.decode(head, type=Page).head_position == 3


async def test_uses_that_cannot_be_counted_are_refused_and_hold_nothing_up(here: House, bus: NatsBus) -> None:
    before = await fed_uses(here)
    change = msgspec.structs.replace
    bad = (change(USE, count=2**62), change(USE, count=-5), change(USE, workspace_id="ws\0"))
    told = [UseBatch("boot-c", 0, (USE, *bad)), UseBatch("boot-c", 1, bad), UseBatch("boot-c", 2, (USE,))]
    first = UseBatch("boot-c", 3, (), (("key\0", 2),))
    forged = UseBatch(f"erasure:{USE.workspace_id}", 0, (USE,))
    for batch in (*told, first, forged):
        answer = await bus.request(USES_SUBJECT, msgspec.msgpack.encode(batch), timeout=3)
        assert msgspec.msgpack.decode(answer.body) == batch.seq + 1
    assert (await fed_uses(here))[len(before) :] == [(USE,), (), (USE,), ()]
    metrics = (await here.nobody("GET", "/metrics")).text
    for field, count in {"count": 4, "workspace_id": 2, "first_use": 1, "batch": 1}.items():
        assert f'keyledger_uses_refused_total{{field="{field}"}} {float(count)}' in metrics


async def fed_uses(here: House) -> list[tuple[Use, ...]]:
    """The uses of every recorded batch."""
    _, *records = wire.unframe((await here.follower("GET", "/v1/feed/uses")).content)
    return [msgspec.msgpack.decode(record, type=RecordedUses).uses for record in records]


@pytest.mark.parametrize("path", ["/v1/feed", "/v1/feed/uses", "/v1/head"])
async def test_followers_need_their_scope_and_ask_well(here: House, keys: Keys, path: str) -> None:
    manager = await here.manager(keys.workspace.rpartition("/")[2], "keys:read", "keys:write")
    refused(await here.nobody("GET", path), 401, "missing_api_key")
    refused(await manager("GET", f"{path}?nope=1"), 403, "insufficient_permissions")
    refused(await here.follower("GET", f"{path}?nope=1"), 400, "invalid_request", "nope")
    bad = (
        [("nonce", "a" * 65), ("nonce", "%00")]
        if path == "/v1/head"
        else [
            ("after", "-1"),
            ("after", str(2**63)),
            ("after", "x"),
            ("limit", "0"),
            ("limit", "10001"),
            ("limit", "9" * 30),
        ]
    )
    for field, value in bad:
        refused(await here.follower("GET", f"{path}?{field}={value}"), 400, "invalid_request", field)


async def test_the_verifier_s_key_follows_and_does_nothing_else(here: House, keys: Keys) -> None:
    refused(await here.follower("GET", keys.all), 404, "not_found")
    refused(await here.follower("GET", Keys(here.system_ws).all), 403, "insufficient_permissions")
    refused(await here.follower("POST", "/v1/workspaces", {"name": "x"}), 403, "insufficient_permissions")


async def test_the_head_is_what_was_written_last(here: House, keys: Keys) -> None:
    made = await here.key(keys.workspace.rpartition("/")[2])
    answer = await here.follower("GET", "/v1/head?nonce=n1")
    head = answer.json()
    assert set(head) == {"nonce", "epoch", "position", "hash", "writable"}
    assert (head["nonce"], head["position"], head["writable"]) == ("n1", made["position"], True)
    assert f"{head['epoch']['number']}-{head['epoch']['line']}" == made["epoch"]
    assert answer.headers["x-keyledger-position"] == str(made["position"])
    packed = await here.follower("GET", "/v1/head?nonce=n2", headers={"Accept": "application/msgpack"})
    decoded = msgspec.msgpack.decode(packed.content, type=Head)
    assert (decoded.nonce, decoded.position, decoded.hash.hex()) == ("n2", head["position"], head["hash"])


async def test_the_head_is_answered_and_ticked_on_the_bus(here: House, keys: Keys, bus: NatsBus) -> None:
    ticks: asyncio.Queue[Message] = asyncio.Queue()
    await bus.subscribe(TICK_SUBJECT, ticks.put)
    made = await here.key(keys.workspace.rpartition("/")[2])
    question = msgspec.msgpack.encode(HeadQuestion("nonce", ""))
    answer = await bus.request(HEAD_SUBJECT, question, timeout=3)
    head = msgspec.msgpack.decode(answer.body, type=Head)
    assert (head.nonce, head.position, head.writable) == ("nonce", made["position"], True)

    async def ticked() -> bool:
        tick = msgspec.msgpack.decode((await ticks.get()).body, type=Head)
        return (tick.nonce, tick.position, tick.hash) == ("", head.position, head.hash)

    await until(ticked)


async def test_what_the_bus_cannot_read_harms_nothing(here: House, bus: NatsBus) -> None:
    for subject in (HEAD_SUBJECT, APPLIED_SUBJECT, USES_SUBJECT):
        for body in (b"", b"\xc1", b"\x93\x01\x02\x03", msgspec.msgpack.encode({"a": 1})):
            await bus.publish(subject, body)
    nul = msgspec.msgpack.encode(UseBatch("boot\0", 0, (USE,)))
    await bus.publish(USES_SUBJECT, nul)
    question = msgspec.msgpack.encode(HeadQuestion("still", ""))
    assert (
        msgspec.msgpack.decode((await bus.request(HEAD_SUBJECT, question, timeout=3)).body, type=Head).nonce
        == "still"
    )
    body = msgspec.msgpack.encode(UseBatch("boot-b", 0, (USE,)))
    assert msgspec.msgpack.decode((await bus.request(USES_SUBJECT, body, timeout=3)).body) == 1


async def test_what_is_committed_is_on_the_stream_at_its_position(
    here: House, keys: Keys, bus: NatsBus
) -> None:
    live: asyncio.Queue[Message] = asyncio.Queue()
    epoch = (await here.admin.ok("GET", "/v1/head"))["epoch"]
    await bus.subscribe(f"{LIVE_SUBJECT}.{epoch['line']}.>", live.put)
    key = await rotated(here, keys)
    stream = f"KEYS_{epoch['line']}"

    async def stored() -> jetstream.StoredMessage | None:
        return await jetstream.message(bus, stream, key["position"])

    message = await until(stored)
    followed = msgspec.msgpack.decode(message.body, type=Followed)
    _, (fed,) = await page(here.follower, key["position"] - 1)
    assert followed == fed
    assert message.sequence == followed.position == key["position"]
    assert message.headers["Kl-Hash"] == followed.hash.hex()
    created = await jetstream.message(bus, stream, key["position"] - 1)
    assert created is not None
    private = json.loads(msgspec.msgpack.decode(created.body, type=Followed).data)["private"]
    assert private == {"name": "Ünï", "external_id": "o", "metadata": {"a": "b"}}

    async def heard() -> bool:
        heard = await live.get()
        subject = f"{LIVE_SUBJECT}.{epoch['line']}.{keys.workspace.rpartition('/')[2]}.{key['id']}"
        return heard.subject == subject and heard.body == message.body

    await until(heard)


async def test_a_receipt_names_the_verifiers_that_refuse_and_those_that_may_not_yet(
    here: House, keys: Keys, bus: NatsBus
) -> None:
    line = bytes.fromhex((await here.admin.ok("GET", "/v1/head"))["epoch"]["line"])

    async def tell(name: str, applied: int) -> None:
        body = msgspec.msgpack.encode(HeadQuestion("n", name, line, applied))
        await bus.request(HEAD_SUBJECT, body, timeout=3)

    made = await here.key(keys.workspace.rpartition("/")[2])
    await tell("quick", made["position"])
    await tell("slow", made["position"])
    revoking = asyncio.create_task(here.admin.ok("POST", keys.one(made["id"], "revoke"), {"wait": 0.4}))

    async def revoked() -> bool:
        return (await here.admin.ok("GET", keys.one(made["id"])))["status"] == "revoked"

    await until(revoked)
    body = msgspec.msgpack.encode(HeadQuestion("", "quick", line, made["position"] + 1))
    await bus.publish(APPLIED_SUBJECT, body)
    receipt = (await revoking)["receipt"]
    assert [applied["verifier"] for applied in receipt["applied"]] == ["quick"]
    assert 0 <= receipt["applied"][0]["ms"] <= 1000
    assert receipt["pending"] == ["slow"]
    await tell("slow", made["position"] + 1)
    whole = (await here.admin.ok("POST", keys.one(made["id"], "revoke"), {"wait": 30}))["receipt"]
    assert ([applied["verifier"] for applied in whole["applied"]], whole["pending"]) == (
        ["quick", "slow"],
        [],
    )
    assert whole["certain_by"] < receipt["certain_by"]


async def test_health_readiness_and_metrics_need_no_credential(here: House, keys: Keys) -> None:
    assert (await here.nobody("GET", "/healthz")).json() == {"status": "ok"}
    made = await here.key(keys.workspace.rpartition("/")[2])
    ready = await here.nobody("GET", "/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "status": "ready",
        "position": made["position"],
        "head": made["position"],
        "epoch": made["epoch"],
        "age_ms": 0,
    }
    metrics = await here.nobody("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain; version=")

    async def published() -> bool:
        text = (await here.nobody("GET", "/metrics")).text
        return f"keyledger_relay_position {float(made['position'])}" in text

    await until(published)
    assert not re.search(r"(key|ws)_[0-9A-Za-z]{22}", metrics.text)


async def test_the_documentation_covers_every_route_and_fetches_nothing(here: House) -> None:
    schema = (await here.nobody("GET", "/docs/openapi.json")).json()
    assert schema["openapi"].startswith("3.1")
    assert set(schema["components"]["securitySchemes"]) == {"ApiKey", "SessionToken"}
    assert schema["security"] == [{"ApiKey": []}, {"SessionToken": []}]
    calls = {
        f"{method.upper()} {path}": operation
        for path, item in schema["paths"].items()
        for method, operation in item.items()
    }
    one, ws = "/v1/workspaces/{ws}/keys/{key}", "/v1/workspaces/{ws}"
    assert set(calls) == {
        "POST /v1/workspaces",
        "GET /v1/workspaces",
        f"GET {ws}",
        f"PATCH {ws}",
        f"GET {ws}/events",
        f"POST {ws}/keys",
        f"GET {ws}/keys",
        f"GET {one}",
        f"PATCH {one}",
        f"POST {one}/rotate",
        f"POST {one}/revoke",
        f"GET {one}/events",
        f"DELETE {ws}",
        f"POST {ws}/keys/import",
        f"GET {ws}/members",
        f"GET {ws}/members/{{user}}",
        f"PUT {ws}/members/{{user}}",
        f"DELETE {ws}/members/{{user}}",
        "POST /v1/session/end",
        "POST /v1/prove",
        "GET /v1/peppers",
        "POST /v1/peppers/{pepper}/retire",
        "GET /v1/epochs",
        "POST /v1/epochs/accept",
        "GET /v1/snapshot",
        "GET /v1/feed",
        "GET /v1/feed/uses",
        "GET /v1/head",
        "POST /v1/authorize",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    }
    for call, operation in calls.items():
        parameters = {(parameter["in"], parameter["name"]) for parameter in operation.get("parameters", [])}
        assert {name for place, name in parameters if place == "path"} == set(re.findall(r"{(\w+)}", call))
        takes_body = call.startswith(("POST", "PATCH", "PUT")) and call != "POST /v1/session/end"
        assert ("requestBody" in operation) == takes_body, call
        if "requestBody" in operation:
            shape = operation["requestBody"]["content"]["application/json"]["schema"]
            assert shape["properties"], call
            assert shape["additionalProperties"] is False
        assert operation["summary"]
        assert any(status.startswith("2") for status in operation["responses"])
    listed = {name for _, name in ((p["in"], p["name"]) for p in calls[f"GET {ws}/keys"]["parameters"])}
    assert {"limit", "cursor", "environment", "status", "external_id", "search"} <= listed
    rotate = {p["name"] for p in calls[f"POST {one}/rotate"]["parameters"]}
    assert {"Idempotency-Key", "If-Match"} <= rotate
    html = await here.nobody("GET", "/docs")
    assert html.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href|url)\s*[=(]\s*['\"]?\s*(https?:)?//", html.text)
    assert "<script" not in html.text
    assert all(path in html.text for path in (one, "/v1/feed"))


async def test_no_secret_is_stored_logged_or_published(
    here: House, keys: Keys, bus: NatsBus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    logged = LogCapture()
    before = structlog.get_config()
    structlog.configure(processors=[logged], cache_logger_on_first_use=False)
    try:
        ws = keys.workspace.rpartition("/")[2]
        headers = {"Idempotency-Key": "canary-idempotency-key"}
        body = {"name": "canary-name", "environment": "live", "metadata": {"canary-pair": "canary-value"}}
        made = (await here.admin("POST", keys.all, body, headers=headers)).json()
        again = await here.admin("POST", keys.all, body, headers=headers)
        turned = await here.admin.ok("POST", keys.one(made["id"], "rotate"), {"overlap_seconds": 9})
        for token in (made["key"], turned["key"]):
            await here.caller(token)("GET", keys.all)
            await here.caller(token[:-1])("GET", f"{keys.all}?search={token}")
            await here.admin("PATCH", keys.one(made["id"]), {"name": 5, token: token})
        revoke = {"reason": "canary-reason", "note": "canary-note"}
        position = (await here.admin.ok("POST", keys.one(made["id"], "revoke"), revoke))["position"]
        listed = await here.admin("GET", keys.all)
        told = await here.admin("GET", keys.events)
    finally:
        structlog.configure(**before)
    assert again.json()["key"] == made["key"]
    line = (await here.admin.ok("GET", "/v1/head"))["epoch"]["line"]

    async def published() -> list[bytes] | None:
        bodies = [await jetstream.message(bus, f"KEYS_{line}", n) for n in range(position - 3, position + 1)]
        return [found.body for found in bodies if found] if all(bodies) else None

    stream = b"\n".join(await until(published))
    feed = (await here.follower("GET", "/v1/feed")).content
    stored = await everything_stored(here.admin_dsn)
    # the tests' own client logs the addresses that it calls
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith("http")]
    logs = repr((logged.entries, ours)).encode()
    tokens = [made["key"], turned["key"], here.admin.key or "", here.follower.key or ""]
    for token in tokens:
        for secret in (token, token[-60:], token[-38:-6]):
            for place in (stored, logs, stream, feed, listed.content, told.content):
                assert secret.encode() not in place
                assert secret.encode().hex().encode() not in place
    for place in (stream, feed, listed.content, told.content, logs):
        assert b"argon2" not in place
    assert b"digest" not in told.content
    assert b"canary" not in logs
    # the log itself is sealed; what is listed stands in the state beside it
    log_only = await everything_stored(here.admin_dsn, "event", "idempotency")
    assert b"canary" not in log_only
    assert ws.encode() in log_only
