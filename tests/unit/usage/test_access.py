"""Asking the key service who may read: what goes along, what comes back, and what is remembered."""

import json
from typing import Any

import httpx2
import pytest

from keyledger.errors import Refusal
from services.usage.adapters.access import REMEMBERED_ANSWERS, REMEMBERED_SECONDS, KeyServiceAccess
from services.usage.ports import Credential

CALLER = Credential((("X-API-Key", "cvtk_live_caller"), ("Authorization", "Bearer x")))


class ManualClock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def now(self) -> int:
        return int(self.seconds * 1_000_000)

    def steady(self) -> float:
        return self.seconds


class KeyService:
    """Answers `POST /v1/authorize` as told."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = {"principal": "key_1", "workspace_id": "ws_1", "scopes": []}
        self.headers: dict[str, str] = {}
        self.requests: list[httpx2.Request] = []
        self.error: httpx2.TransportError | None = None

    def handle(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return httpx2.Response(self.status, content=json.dumps(self.body).encode(), headers=self.headers)

    def access(self, clock: ManualClock) -> KeyServiceAccess:
        transport = httpx2.MockTransport(self.handle)
        return KeyServiceAccess(httpx2.AsyncClient(base_url="http://keys.test", transport=transport), clock)


@pytest.fixture
def keys() -> KeyService:
    return KeyService()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_the_callers_own_credential_is_asked_about(keys: KeyService, clock: ManualClock) -> None:
    await keys.access(clock).authorize(CALLER, "ws_1", None)
    request = keys.requests[0]
    assert (request.method, request.url.path) == ("POST", "/v1/authorize")
    assert request.headers["X-API-Key"] == "cvtk_live_caller"
    assert request.headers["Authorization"] == "Bearer x"
    assert json.loads(request.content) == {
        "workspace_id": "ws_1",
        "scope": "keyledger:usage:read",
        "limits": True,
        "key_id": None,
    }


@pytest.mark.parametrize(("told", "position"), [("17", 17), (None, None), ("x", None)])
async def test_the_position_that_limits_were_read_at_comes_along(
    keys: KeyService, clock: ManualClock, told: str | None, position: int | None
) -> None:
    keys.headers = {} if told is None else {"X-Keyledger-Position": told}
    access = keys.access(clock)
    assert (await access.authorize(CALLER, "ws_1", None)).position == position
    assert (await access.authorize(CALLER, "ws_1", None)).position == position, "as it was remembered"


async def test_what_is_allowed_is_remembered_for_five_seconds(keys: KeyService, clock: ManualClock) -> None:
    access = keys.access(clock)
    await access.authorize(CALLER, "ws_1", None)
    clock.seconds += REMEMBERED_SECONDS - 0.1
    await access.authorize(CALLER, "ws_1", None)
    assert len(keys.requests) == 1
    clock.seconds += 0.1
    await access.authorize(CALLER, "ws_1", None)
    assert len(keys.requests) == 2


async def test_another_caller_workspace_or_key_is_another_question(
    keys: KeyService, clock: ManualClock
) -> None:
    access = keys.access(clock)
    asked = [
        (CALLER, "ws_1", None),
        (CALLER, "ws_2", None),
        (CALLER, "ws_1", "key_1"),
        (Credential((("X-API-Key", "other"),)), "ws_1", None),
        (Credential((("Authorization", "other"),)), "ws_1", None),
    ]
    for credential, workspace_id, key_id in asked:
        await access.authorize(credential, workspace_id, key_id)
    assert len(keys.requests) == 5


async def test_nothing_is_remembered_of_a_user(keys: KeyService, clock: ManualClock) -> None:
    access = keys.access(clock)
    user = Credential((("Authorization", "Bearer a.b.c"),))
    for _ in range(3):
        await access.authorize(user, "ws_1", None)
    assert len(keys.requests) == 3
    keys.status, keys.body = 401, {"error": "invalid_api_key", "message": "The session token is not valid."}
    with pytest.raises(Refusal) as caught:
        await access.authorize(user, "ws_1", None)
    assert (caught.value.code, caught.value.message) == ("invalid_api_key", "The session token is not valid.")


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ("Authorization", "invalid_request"),
        ("X-API-Key", "invalid_request"),
        ("scope", "unavailable"),
        (None, "unavailable"),
    ],
)
async def test_a_credential_that_cannot_be_told_is_the_callers_fault_and_a_question_is_ours(
    keys: KeyService, clock: ManualClock, field: str | None, code: str
) -> None:
    keys.status, keys.body = 400, {"error": "invalid_request", "message": "not both", "field": field}
    with pytest.raises(Refusal) as caught:
        await keys.access(clock).authorize(CALLER, "ws_1", None)
    assert caught.value.code == code
    assert caught.value.field == (field if code == "invalid_request" else None)


async def test_memory_is_bounded(keys: KeyService, clock: ManualClock) -> None:
    access = keys.access(clock)
    for number in range(REMEMBERED_ANSWERS + 1):
        await access.authorize(CALLER, f"ws_{number}", None)
    await access.authorize(CALLER, f"ws_{REMEMBERED_ANSWERS}", None)
    assert len(keys.requests) == REMEMBERED_ANSWERS + 1
    await access.authorize(CALLER, "ws_0", None)
    assert len(keys.requests) == REMEMBERED_ANSWERS + 2


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [
        (401, "missing_api_key", "missing_api_key"),
        (401, "invalid_api_key", "invalid_api_key"),
        (401, "some_new_code", "invalid_api_key"),
        (403, "insufficient_permissions", "insufficient_permissions"),
        (404, "not_found", "not_found"),
        (429, "rate_limit_exceeded", "unavailable"),
        (500, "internal_error", "unavailable"),
        (503, "busy", "unavailable"),
        (302, "x", "unavailable"),
    ],
)
async def test_a_refusal_is_passed_on_and_never_remembered(
    keys: KeyService, clock: ManualClock, status: int, told: str, code: str
) -> None:
    keys.status, keys.body = status, {"error": told, "message": "m" * 5000, "request_id": "theirs"}
    access = keys.access(clock)
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            await access.authorize(CALLER, "ws_1", None)
        assert caught.value.code == code
        assert len(caught.value.message) <= 300
    assert len(keys.requests) == 2


async def test_a_key_service_that_is_away_or_talks_nonsense_is_an_outage(
    keys: KeyService, clock: ManualClock
) -> None:
    access = keys.access(clock)
    keys.status, keys.body = 401, ["nonsense"]
    with pytest.raises(Refusal, match="unavailable"):
        await access.authorize(CALLER, "ws_1", None)
    keys.error = httpx2.ReadTimeout("slow")
    with pytest.raises(Refusal, match="unavailable"):
        await access.authorize(CALLER, "ws_1", None)


async def test_odd_characters_arrive_as_they_came(keys: KeyService, clock: ManualClock) -> None:
    odd = Credential((("X-API-Key", b"k\xe9y".decode("latin-1")),))
    await keys.access(clock).authorize(odd, "ws_1", None)
    assert (b"X-API-Key", b"k\xe9y") in keys.requests[0].headers.raw


async def test_the_key_is_asked_about_in_the_same_question(keys: KeyService, clock: ManualClock) -> None:
    access = keys.access(clock)
    await access.authorize(CALLER, "ws_1", "key_1")
    await access.authorize(CALLER, "ws_1", "key_1")
    (request,) = keys.requests
    assert json.loads(request.content) == {
        "workspace_id": "ws_1",
        "scope": "keyledger:usage:read",
        "limits": True,
        "key_id": "key_1",
    }


async def test_what_holds_for_one_key_is_not_believed_of_another(
    keys: KeyService, clock: ManualClock
) -> None:
    access = keys.access(clock)
    await access.authorize(CALLER, "ws_1", "key_1")
    keys.status, keys.body = 404, {"error": "not_found"}
    with pytest.raises(Refusal, match="not_found"):
        await access.authorize(CALLER, "ws_1", "key_2")
