"""The addresses: order of checks, parameters, pages, CSV, and what readiness says."""

import csv
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from keyledger.clock import SystemClock, rfc3339
from keyledger.errors import Refusal, insufficient_permissions, not_found
from keyledger.wire import RecordedUses, Use
from services.usage.domain.parking import Parked
from services.usage.domain.period import MINUTE
from services.usage.domain.tally import tally
from services.usage.handlers import Asked, Usage
from tests.support.memory_usage import MemoryLimits
from tests.support.usage_house import EPOCH, KEY_A, KEY_B, NOON, RANGE, URL, WS, House, alive, use
from tests.support.waiting import until


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with alive(House()) as house:
        yield house


async def test_a_series_is_told_with_its_totals_and_position(house: House) -> None:
    await house.count(use(count=3), use(KEY_B, at=NOON + 61 * MINUTE), use(outcome="RATE_LIMITED"))
    answer = await house.get(**RANGE, group_by="outcome,key")
    assert answer.status_code == 200
    assert answer.headers["X-Keyledger-Position"] == "1"
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json() == {
        "series": [
            {"start": "2026-05-04T12:00:00Z", "count": 1, "cost": 2, "key": KEY_A, "outcome": "RATE_LIMITED"},
            {"start": "2026-05-04T12:00:00Z", "count": 3, "cost": 6, "key": KEY_A, "outcome": "VALID"},
            {"start": "2026-05-04T13:00:00Z", "count": 1, "cost": 2, "key": KEY_B, "outcome": "VALID"},
        ],
        "totals": {"count": 5, "cost": 10},
        "next_cursor": None,
    }


async def test_the_default_is_hours_up_to_the_current_one(house: House) -> None:
    now = SystemClock().now()
    await house.count(use(at=now), use(at=now - 23 * 60 * MINUTE), use(at=now - 26 * 60 * MINUTE))
    answer = (await house.get()).json()
    assert answer["totals"]["count"] == 2
    assert set(answer["series"][0]) == {"start", "count", "cost"}
    assert answer["series"][-1]["start"] == rfc3339(now - now % (60 * MINUTE))


async def test_a_key_has_its_last_use(house: House) -> None:
    url = f"/v1/workspaces/{WS}/keys/{KEY_A}/usage"
    assert (await house.get(url)).json()["last_used_at"] is None
    await house.count(use(), use(KEY_B))
    answer = (await house.get(url, **RANGE)).json()
    assert (answer["totals"]["count"], answer["last_used_at"]) == (1, "2026-05-04T12:00:00Z")
    assert house.access.asked[-1][1:] == (WS, KEY_A)


async def test_last_uses_of_several_keys(house: House) -> None:
    await house.count(use())
    answer = await house.get(f"/v1/workspaces/{WS}/last-used", keys=f"{KEY_A},{KEY_B}")
    assert answer.json() == {"last_used": {KEY_A: "2026-05-04T12:00:00Z", KEY_B: None}}


async def test_pages_go_on_behind_the_cursor_and_keep_totals_and_period() -> None:
    house = House()
    usage = Usage(house.store, house.access, SystemClock(), MemoryLimits(), max_points=3)
    await house.count(*[use(at=NOON + minute * MINUTE) for minute in range(8)])
    starts: list[int] = []
    cursor: str | None = None
    while True:
        answer = await usage.series(WS, None, Asked(RANGE["from"], RANGE["to"], "minute", None, cursor))
        assert answer.reading.totals.count == 8
        starts += [point.mark.start for point in answer.reading.points]
        if answer.next_cursor is None:
            break
        cursor = answer.next_cursor
    assert starts == [NOON + minute * MINUTE for minute in range(8)]
    with pytest.raises(Refusal) as caught:
        await usage.series(WS, None, Asked(RANGE["from"], RANGE["to"], "hour", None, cursor))
    assert caught.value.field == "cursor"


async def test_csv_has_the_columns_of_the_groups(house: House) -> None:
    await house.count(use(count=3))
    house.http.headers["Accept"] = "text/csv"
    answer = await house.get(**RANGE, group_by="environment,key")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert list(csv.reader(answer.text.splitlines())) == [
        ["start", "key", "environment", "count", "cost"],
        ["2026-05-04T12:00:00Z", KEY_A, "live", "3", "6"],
    ]


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "application/json"),
        ("text/csv;q=0.5, application/json", "application/json"),
        ("application/json;q=0.2, text/csv;q=0.9", "text/csv; charset=utf-8"),
        ("text/csv;q=0", "application/json"),
        ("text/csv;q=x", "application/json"),
        ("text/csv;q=9, application/json;q=0.1", "application/json"),
        ("text/csv, application/json", "text/csv; charset=utf-8"),
        ("application/json, text/csv", "application/json"),
        ("TEXT/CSV; Q = 1.000 , application/json;q=0.999", "text/csv; charset=utf-8"),
        ("text/csv, */*", "text/csv; charset=utf-8"),
        ("text/csv;q=0.5, */*;q=0.8", "application/json"),
        ("text/*, application/json;q=0", "text/csv; charset=utf-8"),
        ("text/csv;q=0, text/*, application/json;q=0.1", "application/json"),
    ],
)
async def test_json_unless_csv_is_preferred(house: House, accept: str, media: str) -> None:
    house.http.headers["Accept"] = accept
    assert (await house.get()).headers["Content-Type"] == media


async def test_csv_of_a_key_has_its_last_use_in_a_header(house: House) -> None:
    house.http.headers["Accept"] = "text/csv"
    url = f"/v1/workspaces/{WS}/keys/{KEY_A}/usage"
    assert "X-Last-Used-At" not in (await house.get(url)).headers
    await house.count(use())
    assert (await house.get(url, **RANGE)).headers["X-Last-Used-At"] == "2026-05-04T12:00:00Z"
    assert "X-Last-Used-At" not in (await house.get(**RANGE)).headers


@pytest.mark.parametrize(
    ("end", "counted"),
    [("12:01:00Z", 4), ("12:00:00.000001Z", 4), ("13:00:00Z", 4), ("13:00:00.000001Z", 5), ("12:00:00Z", 0)],
)
async def test_both_ends_are_rounded_to_whole_buckets(house: House, end: str, counted: int) -> None:
    await house.count(use(at=NOON + 37 * MINUTE, count=4), use(at=NOON + 61 * MINUTE))
    told = await house.get(from_="2026-05-04T11:59:00Z", to=f"2026-05-04T{end}", granularity="hour")
    assert told.json()["totals"]["count"] == counted
    schema = (await house.http.get("/docs/openapi.json")).json()["paths"]
    described = schema["/v1/workspaces/{workspace_id}/usage"]["get"]["description"]
    assert "the one that `to` lies in, unless `to` is its start" in " ".join(described.split())


async def test_the_document_names_csv_and_the_headers_of_answers(house: House) -> None:
    paths = (await house.http.get("/docs/openapi.json")).json()["paths"]
    of_key = paths["/v1/workspaces/{workspace_id}/keys/{key_id}/usage"]["get"]["responses"]["200"]
    assert set(of_key["content"]) == {"application/json", "text/csv"}
    assert set(of_key["headers"]) == {"X-Keyledger-Position", "X-Next-Cursor", "X-Last-Used-At"}
    whole = paths["/v1/workspaces/{workspace_id}/usage"]["get"]
    assert set(whole["responses"]["200"]["headers"]) == {"X-Keyledger-Position", "X-Next-Cursor"}
    assert "apostrophe" in whole["description"]
    last = paths["/v1/workspaces/{workspace_id}/last-used"]["get"]["responses"]["200"]
    assert set(last["content"]) == {"application/json"}


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": ""}, "from"),
        ({"to": "2026-05-04T14:00:00"}, "to"),
        ({"from": RANGE["to"], "to": RANGE["from"]}, "to"),
        ({"from": RANGE["to"], "to": RANGE["to"]}, "to"),
        ({"granularity": "week"}, "granularity"),
        ({"group_by": "workspace"}, "group_by"),
        ({"group_by": ""}, "group_by"),
        ({"cursor": "x"}, "cursor"),
        ({"colour": "red"}, "colour"),
        ({"from": [RANGE["from"], RANGE["from"]]}, "from"),
    ],
)
async def test_a_bad_parameter_is_named(house: House, query: dict[str, Any], field: str) -> None:
    answer = await house.http.get(URL, params=query)
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (
        400,
        "invalid_request",
        field,
    )


@pytest.mark.parametrize(
    "keys", [None, "", "key_1", f"{KEY_A},", ",".join(f"key_{n:022}" for n in range(201))]
)
async def test_bad_lists_of_keys_are_refused(house: House, keys: str | None) -> None:
    answer = await house.http.get(
        f"/v1/workspaces/{WS}/last-used", params={} if keys is None else {"keys": keys}
    )
    assert (answer.status_code, answer.json()["field"]) == (400, "keys")


async def test_200_keys_may_be_listed(house: House) -> None:
    keys = [f"key_{n:022}" for n in range(200)]
    answer = await house.get(f"/v1/workspaces/{WS}/last-used", keys=",".join(keys))
    assert list(answer.json()["last_used"]) == keys


async def test_without_a_credential_nothing_else_is_looked_at(house: House) -> None:
    del house.http.headers["X-API-Key"]
    for url in (URL + "?colour=red", "/v1/workspaces/nonsense/usage", f"/v1/workspaces/{WS}/keys/x/usage"):
        answer = await house.http.get(url)
        assert (answer.status_code, answer.json()["error"]) == (401, "missing_api_key")
        assert "WWW-Authenticate" in answer.headers
    assert house.access.asked == []


@pytest.mark.parametrize(
    "path",
    ["/v1/workspaces/nonsense/usage", f"/v1/workspaces/{WS}/keys/x/usage", "/v1/workspaces/ws_%00/last-used"],
)
async def test_a_malformed_id_is_not_found_once_the_credential_is_good(house: House, path: str) -> None:
    malformed = await house.http.get(path, params={"colour": "red"})
    assert len(house.access.asked) == 1
    house.access.refusal = not_found()
    foreign = await house.http.get(URL)
    unknown = await house.http.get("/v1/nothing")
    bodies = [{**answer.json(), "request_id": ""} for answer in (malformed, foreign, unknown)]
    assert bodies[0] == bodies[1] == bodies[2]
    assert malformed.status_code == foreign.status_code == unknown.status_code == 404


async def test_the_scope_comes_before_the_query(house: House) -> None:
    house.access.refusal = insufficient_permissions("The key lacks a scope.")
    answer = await house.get(colour="red")
    assert (answer.status_code, answer.json()["error"]) == (403, "insufficient_permissions")


async def test_credentials_go_along_as_they_came(house: House) -> None:
    house.http.headers["Authorization"] = "Bearer jwt"
    await house.get()
    credential = house.access.asked[0][0]
    assert credential.headers == (("X-API-Key", "cvtk_live_caller"), ("Authorization", "Bearer jwt"))
    assert "cvtk" not in repr(credential)


async def test_a_store_that_is_away_is_a_503_and_not_ready(house: House) -> None:
    async def ready() -> bool:
        return (await house.http.get("/readyz")).status_code == 200

    await until(ready)
    house.store.away = True
    for url in (URL, f"/v1/workspaces/{WS}/last-used?keys={KEY_A}"):
        answer = await house.http.get(url)
        assert (answer.status_code, answer.json()["error"]) == (503, "unavailable")
        assert answer.headers["Retry-After"] == "1"
    answer = await house.http.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (503, "postgres_away")


async def test_readiness_tells_how_far_the_log_is_folded(house: House) -> None:
    async def ready() -> httpx2.Response | None:
        answer = await house.http.get("/readyz")
        return answer if answer.status_code == 200 else None

    body = (await until(ready)).json()
    assert (body["status"], body["position"], body["head"], body["epoch"]) == ("ready", 0, 0, EPOCH.text)
    assert body["age_ms"] >= 0
    house.bus.connected = False
    assert (await house.http.get("/readyz")).json()["status"] == "degraded"


async def test_readiness_tells_of_batches_that_were_passed_over() -> None:
    house = House()
    await house.store.begin(EPOCH, 0)
    await house.store.fold(EPOCH, 0, 1, tally(()), parked=[Parked(1, 5, "count")])
    house.feed.batches = [RecordedUses(1, 0, ())]
    async with alive(house):

        async def told() -> httpx2.Response | None:
            answer = await house.http.get("/readyz")
            return answer if answer.status_code == 200 else None

        body = (await until(told)).json()
        assert (body["status"], body["parked"]) == ("degraded", 1)


async def test_without_a_feed_it_is_alive_and_not_ready() -> None:
    house = House()
    house.feed.away = True
    async with house.litestar.lifespan(), house.http:
        assert (await house.http.get("/healthz")).status_code == 200
        answer = await house.http.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"status": "starting"})
        assert "keyledger_position" in (await house.http.get("/metrics")).text


async def test_other_methods_are_refused_and_the_documentation_is_there(house: House) -> None:
    answer = await house.http.post(URL)
    assert (answer.status_code, answer.headers["Allow"].split(", ")[0]) == (405, "GET")
    schema = (await house.http.get("/docs/openapi.json")).json()
    names = [
        parameter["name"]
        for parameter in schema["paths"]["/v1/workspaces/{workspace_id}/usage"]["get"]["parameters"]
    ]
    assert {"from", "to", "granularity", "group_by", "cursor"} <= set(names)


async def test_what_was_dropped_is_refused_and_not_told_as_nothing(house: House) -> None:
    await house.count(use(count=3))
    house.store.kept_from = {"minute": NOON + 60 * MINUTE}
    answer = await house.get(**RANGE, granularity="minute")
    assert (answer.status_code, answer.json()["field"]) == (400, "from")
    assert "2026-05-04T13:00:00Z" in answer.json()["message"]
    assert (await house.get(**RANGE, granularity="hour")).json()["totals"]["count"] == 3


async def test_a_total_is_one_point_of_the_whole_period(house: House) -> None:
    await house.count(use(count=3), use(at=NOON + 5 * MINUTE, count=4), use(at=NOON + 61 * MINUTE, count=9))
    answer = await house.get(from_="2026-05-04T12:00:30Z", to="2026-05-04T12:06:00Z", granularity="total")
    assert answer.json() == {
        "series": [{"start": "2026-05-04T12:00:00Z", "count": 7, "cost": answer.json()["totals"]["cost"]}],
        "totals": {"count": 7, "cost": answer.json()["totals"]["cost"]},
        "next_cursor": None,
    }


async def test_a_total_needs_only_the_minutes_at_its_edges(house: House) -> None:
    await house.count(use(count=3))
    house.store.kept_from = {"minute": NOON + 60 * MINUTE}
    whole = await house.get(from_="2026-05-04T12:00:00Z", to="2026-05-04T14:00:00Z", granularity="total")
    assert whole.status_code == 200
    edge = await house.get(from_="2026-05-04T12:01:00Z", to="2026-05-04T14:00:00Z", granularity="total")
    assert (edge.status_code, edge.json()["field"]) == (400, "from")
    assert "By the minute" in edge.json()["message"]


async def test_uses_are_told_apart_by_the_external_id_of_their_time(house: House) -> None:
    owned = Use(WS, KEY_A, "live", NOON, "VALID", 2, 2, NOON, "=user,17")
    await house.count(use(), owned)
    answer = (await house.get(**RANGE, group_by="external_id")).json()["series"]
    assert [(point["external_id"], point["count"]) for point in answer] == [(None, 1), ("=user,17", 2)]
    house.http.headers["Accept"] = "text/csv"
    lines = list(csv.reader((await house.get(**RANGE, group_by="external_id")).text.splitlines()))
    assert lines[0] == ["start", "external_id", "count", "cost"]
    assert [line[1] for line in lines[1:]] == ["", "'=user,17"], "no spreadsheet takes it for a formula"
