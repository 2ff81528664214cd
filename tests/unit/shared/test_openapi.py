"""The description of a service: the decoded structs in the schema, and a page that fetches nothing."""

import re
from typing import Any, Literal

import httpx2
import msgspec
from litestar import Litestar, post

from keyledger.server.openapi import documented, openapi_config, page, schema_of


class Inner(msgspec.Struct):
    limit: int


class Body(msgspec.Struct):
    """What is sent."""

    name: str
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


class Query(msgspec.Struct):
    order: Literal["up", "down"] = "up"


@post(
    "/things/{thing:str}",
    operation_class=documented(
        body=Body,
        query=Query,
        headers=("Idempotency-Key",),
        texts=("text/csv",),
        answered={"X-Far": "How far."},
    ),
    summary="Make a <thing>",
)
async def make(thing: str) -> dict[str, str]:
    """Makes it, and says so."""
    return {"thing": thing}


APP: Any = Litestar([make], openapi_config=openapi_config("Things & co", "Makes <things>."))


async def fetch(path: str) -> httpx2.Response:
    transport = httpx2.ASGITransport(app=APP)
    async with httpx2.AsyncClient(transport=transport, base_url="http://keys.test") as client:
        return await client.get(path)


def references(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return [node["$ref"] for _ in "x" if "$ref" in node] + references(list(node.values()))
    return [found for value in node for found in references(value)] if isinstance(node, list) else []


def test_a_schema_stands_by_itself() -> None:
    schema = schema_of(Body)
    assert references(schema) == []
    assert "$defs" not in schema
    assert schema["properties"]["many"]["items"]["properties"] == {"limit": {"type": "integer"}}
    assert schema["required"] == ["name"]


async def test_what_a_handler_decodes_itself_is_in_the_document() -> None:
    operation = (await fetch("/docs/openapi.json")).json()["paths"]["/things/{thing}"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"name", "inner", "many"}
    assert {(one["name"], one["in"]) for one in operation["parameters"]} == {
        ("thing", "path"),
        ("order", "query"),
        ("Idempotency-Key", "header"),
    }
    refused = operation["responses"]["default"]["content"]["application/json"]["schema"]
    assert refused["required"] == ["error", "message", "request_id"]
    assert "400" not in operation["responses"]
    assert operation["description"] == "Makes it, and says so."


async def test_what_a_handler_answers_besides_is_in_the_document() -> None:
    operation = (await fetch("/docs/openapi.json")).json()["paths"]["/things/{thing}"]["post"]
    made = operation["responses"]["201"]
    assert made["content"]["text/csv"]["schema"] == {"type": "string"}
    assert "application/json" in made["content"]
    assert made["headers"]["X-Far"]["description"] == "How far."


async def test_the_page_shows_every_operation_and_fetches_nothing() -> None:
    answer = await fetch("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert "/things/{thing}" in answer.text
    assert "Make a &lt;thing&gt;" in answer.text
    assert "<h1>Things &amp; co</h1>" in answer.text
    assert "Makes &lt;things&gt;." in answer.text
    assert not re.search(r"<script|<link|<img|https?://|@import|url\(", answer.text)


def test_a_page_of_nothing_is_still_a_page() -> None:
    assert "<h1>Empty</h1>" in page({"info": {"title": "Empty"}})
