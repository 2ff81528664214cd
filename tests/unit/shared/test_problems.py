"""Refusals on the wire: one table of statuses, two shapes, and nothing that quotes what was sent."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import msgspec
import pytest
from litestar import Litestar, get
from structlog.testing import capture_logs

from keyledger import errors
from keyledger.errors import Refusal
from keyledger.server.edge import Edge
from keyledger.server.problems import ERROR_STATUS, TITLES, describe, exception_handlers, status_of

SECRET = "cvtk_live_something"


def described(refusal: Refusal, accept: str = "") -> tuple[int, dict[str, str], dict[str, Any]]:
    status, headers, body = describe(refusal, request_id="req_1", accept=accept)
    return status, headers, msgspec.json.decode(body)


def test_an_error_is_its_code_its_message_and_its_request() -> None:
    status, headers, body = described(errors.invalid_request("No name.", field="name"))
    assert status == 400
    assert body == {"error": "invalid_request", "message": "No name.", "field": "name", "request_id": "req_1"}
    assert headers == {"content-type": "application/json", "cache-control": "no-store"}


def test_an_error_without_a_field_has_none() -> None:
    assert "field" not in described(errors.not_found())[2]


@pytest.mark.parametrize(
    "accept",
    ["application/problem+json", "text/html, APPLICATION/PROBLEM+JSON;q=0.9", "application/problem+json,*/*"],
)
def test_a_problem_document_says_the_same_and_more(accept: str) -> None:
    refusal = errors.invalid_request("No name.", field="name")
    status, headers, body = described(refusal, accept)
    assert headers["content-type"] == "application/problem+json"
    assert body == {
        "type": "urn:keyledger:error:invalid_request",
        "title": "Bad Request",
        "status": status,
        "detail": "No name.",
        **described(refusal)[2],
    }


def test_a_missing_credential_is_challenged_and_nothing_else_is() -> None:
    for refusal in (errors.missing_api_key(), errors.invalid_api_key()):
        assert described(refusal)[1]["www-authenticate"].startswith("ApiKey ")
    for refusal in (errors.not_found(), errors.insufficient_permissions("No.")):
        assert "www-authenticate" not in described(refusal)[1]


async def test_a_session_s_token_is_challenged_as_one() -> None:
    @get("/")
    async def refusing() -> None:
        raise errors.invalid_session()

    app: Any = Litestar([refusing], exception_handlers=exception_handlers, openapi_config=None)
    transport = httpx2.ASGITransport(app=app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://keys") as client:
        for headers, scheme in (
            ({}, "ApiKey "),
            ({"Authorization": "bearer a.b.c"}, 'Bearer realm="keyledger", error="invalid_token"'),
            ({"Authorization": "Basic eDp5"}, "ApiKey "),
            ({"Authorization": "Bearer a.b.c", "X-API-Key": "x"}, "ApiKey "),
        ):
            assert (await client.get("/", headers=headers)).headers["www-authenticate"].startswith(scheme)


def test_an_absence_says_when_to_come_again() -> None:
    status, headers, _ = described(errors.unavailable("stale", "Too old.", retry_after=7))
    assert (status, headers["retry-after"]) == (503, "7")
    assert "retry-after" not in described(errors.not_found())[1]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_request", 400),
        ("missing_api_key", 401),
        ("invalid_api_key", 401),
        ("insufficient_permissions", 403),
        ("not_found", 404),
        ("method_not_allowed", 405),
        ("conflict", 409),
        ("key_revoked", 409),
        ("idempotency_in_progress", 409),
        ("precondition_failed", 412),
        ("payload_too_large", 413),
        ("unsupported_media_type", 415),
        ("idempotency_key_reused", 422),
        ("rate_limit_exceeded", 429),
        ("cost_exceeds_limit", 400),
        ("internal_error", 500),
        ("busy", 503),
        ("a_code_of_its_own", 503),
    ],
)
def test_each_code_has_the_status_of_the_contract(code: str, status: int) -> None:
    assert status_of(Refusal(code, "Words.")) == status
    assert status in TITLES


def test_every_status_in_the_table_has_a_title() -> None:
    assert {*ERROR_STATUS.values(), 503} <= set(TITLES)


@get("/refused")
async def refused() -> None:
    raise errors.insufficient_permissions("No.", field="scopes")


@get("/broken")
async def broken() -> None:
    raise RuntimeError(f"could not use {SECRET}")


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    app: Any = Edge(Litestar([refused, broken], exception_handlers=exception_handlers, openapi_config=None))
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"X-Request-Id": "trace-7"}
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://keys.test", headers=headers
    ) as client:
        yield client


async def test_a_refusal_of_a_handler_is_answered_as_such(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/refused")
    assert answer.status_code == 403
    assert answer.json() == {
        "error": "insufficient_permissions",
        "message": "No.",
        "field": "scopes",
        "request_id": "trace-7",
    }
    assert answer.headers["x-request-id"] == "trace-7"


async def test_an_unknown_address_is_not_found_in_the_same_words(http: httpx2.AsyncClient) -> None:
    answer = await http.get(f"/{SECRET}")
    _, _, expected = described(errors.not_found())
    assert answer.status_code == 404
    assert answer.json() == {**expected, "request_id": "trace-7"}


async def test_another_method_is_refused_naming_those_that_are_taken(http: httpx2.AsyncClient) -> None:
    answer = await http.post("/refused")
    assert (answer.status_code, answer.json()["error"]) == (405, "method_not_allowed")
    assert "GET" in answer.headers["allow"]


async def test_a_problem_document_is_answered_when_it_is_asked_for(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/refused", headers={"Accept": "application/problem+json"})
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.json()["status"] == 403


async def test_a_defect_tells_the_caller_nothing_and_the_log_only_where(http: httpx2.AsyncClient) -> None:
    with capture_logs() as logged:
        answer = await http.get("/broken")
    assert (answer.status_code, answer.json()["error"]) == (500, "internal_error")
    assert SECRET not in answer.text
    assert [entry["event"] for entry in logged] == ["internal_error"]
    assert (logged[0]["error"], logged[0]["request_id"]) == ("RuntimeError", "trace-7")
    assert any("broken" in place for place in logged[0]["where"])
    assert SECRET not in str(logged)
