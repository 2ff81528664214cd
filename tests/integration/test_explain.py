"""`GET /v1/explain` on a verifier that follows a real key service: the steps, and what a refusal is from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keyledger.clock import SystemClock
from keyledger.token import Secret
from keyledger.verification import Verifier
from keyledger.verification.explanation import CHECKS
from keyledger.verification.limits import FixedWindow
from services.verifier.adapters.key_service import HttpKeyService
from services.verifier.app import Service
from tests.support.asgi_server import serving
from tests.support.keys import UNKNOWN_KEY, Caller, House, Keys, house, refused
from tests.support.servers import Servers
from tests.support.verifying import client_of

ANY_IP = {"ip": "10.1.2.3"}


@dataclass
class Scene:
    """A key service, and a verifier that follows it."""

    here: House
    verifier: Verifier
    client: httpx2.AsyncClient

    async def applied(self, position: int) -> None:
        await self.verifier.reached(position)

    async def ask(self, key_id: str, by: Caller | None = None, **needs: Any) -> httpx2.Response:
        caller = by or self.here.admin
        headers = {} if caller.key is None else {"X-API-Key": caller.key}
        return await self.client.get("/v1/explain", params={"key_id": key_id, **needs}, headers=headers)

    async def explained(self, key_id: str, **needs: Any) -> dict[str, Any]:
        answer = await self.ask(key_id, **needs)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def patched(self, key: dict[str, Any], **changes: Any) -> int:
        """The position of a change that the verifier has applied."""
        done = await self.here.admin.ok("PATCH", Keys(key["workspace_id"]).one(key["id"]), changes)
        await self.applied(done["position"])
        return done["position"]

    async def key(self, **fields: Any) -> dict[str, Any]:
        made = await self.here.key(await self.here.workspace(), **fields)
        await self.applied(made["position"])
        return made


@pytest.fixture(scope="module")
async def scene(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("explain")
    async with house(servers, folder / "home") as here, serving(here.edge) as keys_url:
        key = (here.home.secrets / "verifier").read_text().strip()
        async with (
            Verifier(
                keys_url=keys_url,
                service_key=Secret(key),
                nats=here.nats,
                peppers=here.home.peppers,
                folder=folder / "state",
                limits=FixedWindow(),
            ) as verifier,
            httpx2.AsyncClient(base_url=keys_url, trust_env=False, timeout=3) as http,
        ):
            await verifier.ready()
            service = Service(verifier, SystemClock(), keys=HttpKeyService(http))
            async with client_of(service.app) as client:
                yield Scene(here, verifier, client)


def step(told: dict[str, Any], check: str) -> dict[str, Any]:
    return next(each for each in told["steps"] if each["check"] == check)


async def test_a_key_that_is_let_in_has_passed_every_check(scene: Scene) -> None:
    key = await scene.key(scopes=["read"])
    answer = await scene.ask(key["id"], scopes="read", environment="live")
    told = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-keyledger-position"] == str(told["position"])
    assert (told["key_id"], told["workspace_id"]) == (key["id"], key["workspace_id"])
    assert told["verdict"] == {"code": "VALID", "valid": True}
    assert (told["cause"], told["as_of"]) == (None, None)
    assert [each["check"] for each in told["steps"]] == list(CHECKS)
    outcomes = {each["check"]: each["outcome"] for each in told["steps"]}
    assert {check for check, outcome in outcomes.items() if outcome == "skipped"} == {"token", "quota"}
    assert {*outcomes.values()} == {"passed", "skipped"}


async def test_the_cause_is_the_event_that_did_it(scene: Scene) -> None:
    """Each refusal in turn, the last check first: a change is the cause until an earlier check refuses."""
    key = await scene.key(scopes=["read"])
    ws, changed = key["workspace_id"], scene.patched
    operator = scene.here.home.bootstrapped()["management_key"]

    async def cause(**needs: Any) -> tuple[str, int, str]:
        told = await scene.explained(key["id"], **{"scopes": "read", **ANY_IP, **needs})
        assert told["cause"]["actor"] == f"key_{operator[10:32]}"
        assert told["cause"]["at"].endswith("Z")
        return told["verdict"]["code"], told["cause"]["position"], told["cause"]["type"]

    limited = await changed(key, rate_limit={"limit": 1, "window_seconds": 86400})
    assert scene.verifier.check(key["key"]).valid
    assert await cause() == ("RATE_LIMITED", limited, "key_changed")
    scopes = await changed(key, scopes=["write"])
    await changed(key, name="renamed")
    assert await cause() == ("INSUFFICIENT_PERMISSIONS", scopes, "key_changed")
    ips = await changed(key, allowed_ips=["10.9.0.0/16"])
    assert await cause() == ("IP_NOT_ALLOWED", ips, "key_changed")
    assert await cause(environment="test") == ("WRONG_ENVIRONMENT", key["position"], "key_created")
    suspended = await scene.here.admin.ok("PATCH", Keys(ws).workspace, {"suspended": True})
    await scene.applied(suspended["position"])
    assert await cause() == ("WORKSPACE_SUSPENDED", suspended["position"], "workspace_changed")
    expired = await changed(key, expires_at="2999-01-01T00:00:00Z")
    assert await cause() == ("WORKSPACE_SUSPENDED", suspended["position"], "workspace_changed")
    disabled = await changed(key, enabled=False)
    assert await cause() == ("DISABLED", disabled, "key_changed")
    revoked = await scene.here.admin.ok("POST", Keys(ws).one(key["id"], "revoke"), {})
    await scene.applied(revoked["position"])
    assert await cause() == ("REVOKED", revoked["position"], "key_revoked")
    # and the past is as it was
    assert await cause(as_of=disabled) == ("DISABLED", disabled, "key_changed")
    assert await cause(as_of=expired) == ("WORKSPACE_SUSPENDED", suspended["position"], "workspace_changed")
    assert await cause(as_of=ips) == ("IP_NOT_ALLOWED", ips, "key_changed")
    assert await cause(as_of=scopes) == ("INSUFFICIENT_PERMISSIONS", scopes, "key_changed")
    then = await scene.explained(key["id"], scopes="read", as_of=limited)
    assert then["verdict"]["code"] == "VALID"
    assert (then["position"], step(then, "rate_limit")["outcome"]) == (limited, "skipped")
    assert then["as_of"].endswith("Z")


async def test_a_key_that_has_expired_since_is_explained_by_who_said_so(scene: Scene) -> None:
    key = await scene.key()
    history = await scene.here.admin.ok("GET", Keys(key["workspace_id"]).one(key["id"], "events"))
    created_at = history["events"][0]["at"]
    past = await scene.patched(key, expires_at="2999-01-01T00:00:00Z")
    assert (await scene.explained(key["id"]))["verdict"]["code"] == "VALID"
    assert (await scene.explained(key["id"], as_of=created_at))["position"] >= key["position"]
    expires = step(await scene.explained(key["id"], as_of=past), "expiry")
    assert (expires["outcome"], expires["detail"]) == ("passed", "The key expires 2999-01-01T00:00:00Z.")


async def test_a_retired_secret_is_ended_by_the_rotation_that_ended_it(scene: Scene) -> None:
    key = await scene.key()
    rotate = Keys(key["workspace_id"]).one(key["id"], "rotate")
    first = await scene.here.admin.ok("POST", rotate, {"overlap_seconds": 3600})
    second = await scene.here.admin.ok("POST", rotate, {"overlap_seconds": 3600})
    await scene.applied(second["position"])
    assert (await scene.explained(key["id"]))["verdict"]["code"] == "VALID"
    oldest = await scene.explained(key["id"], secret=1)
    assert (oldest["verdict"]["code"], step(oldest, "secret")["outcome"]) == ("REVOKED", "refused")
    assert (oldest["cause"]["type"], oldest["cause"]["position"]) == ("key_rotated", second["position"])
    then = await scene.explained(key["id"], secret=1, as_of=first["position"])
    assert then["verdict"]["code"] == "VALID"
    again = await scene.explained(key["id"], secret=1, as_of=second["position"])
    assert again["cause"] == oldest["cause"]
    refused(await scene.ask(key["id"], secret=9), 400, "invalid_request", "secret")


async def test_only_an_operator_is_told(scene: Scene) -> None:
    key = await scene.key()
    manager = await scene.here.manager(key["workspace_id"], "keys:read")
    refused(await scene.ask(key["id"], scene.here.nobody), 401, "missing_api_key")
    refused(await scene.ask(key["id"], scene.here.caller(key["key"][:-1] + "_")), 401, "invalid_api_key")
    for by in (manager, scene.here.caller(key["key"]), scene.here.follower):
        refused(await scene.ask(key["id"], by), 403, "insufficient_permissions")
        # a credential comes before what is asked
        refused(await scene.ask("nonsense", by), 403, "insufficient_permissions")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"key_id": "nonsense"}, "key_id"),
        ({"key_id": ""}, "key_id"),
        ({"scopes": "No"}, "scopes"),
        ({"environment": "prod"}, "environment"),
        ({"ip": "10.0.0"}, "ip"),
        ({"cost": "-1"}, "cost"),
        ({"cost": "x"}, "cost"),
        ({"secret": "0"}, "secret"),
        ({"as_of": "yesterday"}, "as_of"),
        ({"as_of": "999999999"}, "as_of"),
        ({"as_of": "2999-01-01T00:00:00Z"}, "as_of"),
        ({"what": "1"}, "what"),
    ],
)
async def test_what_makes_no_sense_is_refused_by_name(
    scene: Scene, asked: dict[str, str], field: str
) -> None:
    key = await scene.key()
    refused(await scene.ask(**{"key_id": key["id"], **asked}), 400, "invalid_request", field)  # pyright: ignore


async def test_the_key_has_to_be_named(scene: Scene) -> None:
    headers = {"X-API-Key": str(scene.here.admin.key)}
    refused(await scene.client.get("/v1/explain", headers=headers), 400, "invalid_request", "key_id")


async def test_an_unknown_key_and_one_before_its_creation_are_not_found(scene: Scene) -> None:
    key = await scene.key()
    refused(await scene.ask(UNKNOWN_KEY), 404, "not_found")
    refused(await scene.ask(UNKNOWN_KEY, as_of="1"), 404, "not_found")
    refused(await scene.ask(key["id"], as_of=str(key["position"] - 1)), 404, "not_found")


async def test_a_cost_beyond_the_limit_is_refused_as_a_check_refuses_it(scene: Scene) -> None:
    key = await scene.key()
    refused(await scene.ask(key["id"], cost="1001"), 400, "cost_exceeds_limit", "cost")


async def test_without_the_key_service_nothing_is_explained(scene: Scene, tmp_path: Path) -> None:
    del tmp_path
    async with httpx2.AsyncClient(base_url="http://127.0.0.1:1", trust_env=False, timeout=1) as nobody:
        for keys in (HttpKeyService(nobody), None):
            service = Service(scene.verifier, SystemClock(), keys=keys)
            async with client_of(service.app) as client:
                answer = await client.get(
                    "/v1/explain",
                    params={"key_id": UNKNOWN_KEY},
                    headers={"X-API-Key": str(scene.here.admin.key)},
                )
            refused(answer, 503, "unavailable")


async def test_the_events_of_one_stream_can_be_asked_for(scene: Scene) -> None:
    key = await scene.key()
    ws = key["workspace_id"]
    events = Keys(ws).events

    async def types(**query: str) -> list[str]:
        answer = await scene.here.admin.ok("GET", events, params=query)
        return [event["type"] for event in answer["events"]]

    assert await types(stream=ws) == ["workspace_created"]
    assert await types(stream=key["id"]) == ["key_created"]
    assert await types() == ["workspace_created", "key_created"]
    assert await types(stream=UNKNOWN_KEY) == []
    elsewhere = await scene.key()
    assert await types(stream=elsewhere["id"]) == []
    for stream in ("nonsense", elsewhere["workspace_id"]):
        answer = await scene.here.admin("GET", events, params={"stream": stream})
        refused(answer, 400, "invalid_request", "stream")
