"""Two tenants: whatever one asks for by the other's ids is not there."""

import re
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.browser.conftest import Somebody
from tests.support.browsing import WRITES, Person
from tests.support.system import System

KEY = "/settings/api-keys/{key}"
PAGES = (
    KEY, f"{KEY}/rotate", f"{KEY}/revoke", f"{KEY}/usage", f"{KEY}/edit", f"{KEY}/history",
)  # fmt: skip


@dataclass(frozen=True)
class Tenant:
    """Somebody, and all the ids of theirs."""

    person: Person
    user: str
    workspace: str
    key: dict[str, Any]
    jwt: str


async def tenant(system: System, somebody: Person, account: str) -> Tenant:
    await somebody.signs_in(account)
    workspace = await somebody.makes_workspace("Tenant")
    key = await system.key(workspace, name=f"{account}'s key")
    jwt = await somebody.cookie()
    assert jwt is not None
    return Tenant(somebody, (await somebody.claims())["sub"], workspace, key, jwt)


@pytest.fixture(scope="module")
async def tenants(house: System, somebody: Somebody) -> AsyncIterator[tuple[Tenant, Tenant]]:
    async with somebody() as ada, somebody() as ben:
        yield await tenant(house, ada, "gus"), await tenant(house, ben, "hal")


def operations(document: dict[str, Any]) -> Iterable[tuple[str, str]]:
    """Every address of a service that has a workspace in it, with its methods."""
    for path, methods in document["paths"].items():
        if re.search(r"\{(ws|workspace)[^}]*\}", path):
            for method in methods:
                yield method.upper(), path


@pytest.mark.parametrize("service", ["keys", "usage"])
async def test_every_call_with_the_other_s_ids_finds_nothing(
    house: System, tenants: tuple[Tenant, Tenant], service: str
) -> None:
    mine, theirs = tenants
    document = (await house.http.get(house.url(service, "/docs/openapi.json"))).json()
    calls = list(operations(document))
    assert len(calls) >= {"keys": 16, "usage": 3}[service], calls
    # their workspace and their key, and their key as if it were in mine
    for method, path in calls:
        for workspace in (theirs.workspace, mine.workspace):
            if workspace == mine.workspace and "{key" not in path and "{user" not in path:
                continue
            filled = re.sub(r"\{(ws|workspace)[^}]*\}", workspace, path)
            filled = re.sub(r"\{key[^}]*\}", theirs.key["id"], filled)
            filled = re.sub(r"\{user[^}]*\}", theirs.user, filled)
            filled = re.sub(r"\{position[^}]*\}", "1", filled)
            if method == "PUT" and workspace == mine.workspace and filled.endswith(theirs.user):
                continue  # inviting somebody whose id is known is what one may do at home
            answer = await house.http.request(
                method,
                house.url(service, filled),
                headers={"Authorization": f"Bearer {mine.jwt}"},
                json=None if method in {"GET", "HEAD", "DELETE"} else {"name": "x", "role": "owner"},
            )
            assert answer.status_code == 404, (method, filled, answer.status_code, answer.text)
            assert theirs.key["name"] not in answer.text


@pytest.mark.parametrize("path", PAGES)
async def test_every_page_of_the_other_s_key_is_not_there(tenants: tuple[Tenant, Tenant], path: str) -> None:
    mine, theirs = tenants
    answer = await mine.person.goes_to(path.format(key=theirs.key["id"]))
    assert answer.status == 404
    text = await mine.person.page.inner_text("body")
    assert theirs.key["name"] not in text
    assert theirs.workspace not in text


async def test_every_write_of_the_dashboard_with_the_other_s_ids_finds_nothing(
    tenants: tuple[Tenant, Tenant], house: System
) -> None:
    mine, theirs = tenants
    await mine.person.goes_to("/settings/api-keys")
    form = {**WRITES, "Content-Type": "application/x-www-form-urlencoded"}
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        for path in PAGES:
            status, text = await mine.person.call(
                method, path.format(key=theirs.key["id"]), form, "name=x&environment=live&confirm=x"
            )
            assert status in {404, 405}, (method, path, status)
            assert theirs.key["name"] not in text
    status, _ = await mine.person.call("POST", "/session/switch", form, f"workspace={theirs.workspace}")
    assert status == 404
    assert (await mine.person.claims())["ws"] == mine.workspace
    status, _ = await mine.person.call(
        "POST", "/session/switch", {**WRITES, "Content-Type": "application/json"},
        f'{{"workspace": "{theirs.workspace}"}}',
    )  # fmt: skip
    assert status in {400, 404, 415}
    assert (await mine.person.claims())["ws"] == mine.workspace
    key = await house.call("GET", f"/v1/workspaces/{theirs.workspace}/keys/{theirs.key['id']}")
    assert key.json()["version"] == 1
