"""An event of an older version is read as today's: step by step, sealed or open, never by an exception."""

import base64
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from keyledger import events
from keyledger.event_reader import Reader, Unknown, Upcast


class Text(Struct, frozen=True, omit_defaults=True):
    """What a person typed; it was called `title` in versions 1 and 2."""

    name: str = ""


class Window(Struct, frozen=True, omit_defaults=True):
    """An event whose version 1 said `minutes`, version 2 `seconds`; version 3 has a field more."""

    seconds: int
    aligned: bool
    private: Text | bytes | None = None


def in_seconds(raw: dict[str, Any]) -> dict[str, Any]:
    return {"seconds": raw.pop("minutes") * 60, **raw}


def aligned_and_named(raw: dict[str, Any]) -> dict[str, Any]:
    private = raw.get("private")
    if isinstance(private, dict):
        # open; sealed it is text, whose words are changed once it is open
        raw["private"] = {"name": private["title"]}
    return {**raw, "aligned": False}


TAGS = {"window": (Window, 3), "window_2": (Window, 1)}
UPCASTS: dict[tuple[str, int], Upcast] = {("window", 1): in_seconds, ("window", 2): aligned_and_named}
READER = Reader(TAGS, UPCASTS)


@pytest.mark.parametrize(
    ("version", "data", "event"),
    [
        (1, {"minutes": 2}, Window(120, aligned=False)),
        (2, {"seconds": 90}, Window(90, aligned=False)),
        (3, {"seconds": 90, "aligned": True}, Window(90, aligned=True)),
        (1, {"minutes": 1, "private": {"title": "T"}}, Window(60, aligned=False, private=Text("T"))),
        (1, {"minutes": 1, "private": None}, Window(60, aligned=False)),
        (
            1,
            {"minutes": 1, "private": base64.b64encode(b"sealed").decode()},
            Window(60, aligned=False, private=b"sealed"),
        ),
    ],
)
def test_every_version_is_read_as_what_it_meant(version: int, data: dict[str, Any], event: Window) -> None:
    assert READER.decode("window", version, msgspec.json.encode(data)) == event


@pytest.mark.parametrize(
    ("version", "data"),
    [
        (1, b"{}"),
        (1, b"[]"),
        (1, b'{"minutes":"many"}'),
        (1, b'{"minutes":[1]}'),
        (1, b'{"minutes":1,"private":{"name":"not yet its name"}}'),
        (1, b"{"),
        (1, b"\xff"),
        (2, b'{"minutes":2}'),
        (0, b'{"seconds":1,"aligned":true}'),
        (-1, b'{"seconds":1,"aligned":true}'),
        (4, b'{"seconds":1,"aligned":true}'),
    ],
)
def test_what_is_not_of_its_version_is_unknown(version: int, data: bytes) -> None:
    found = READER.decode("window", version, data)
    assert isinstance(found, Unknown)
    assert (found.type, found.schema_version) == ("window", version)


def test_why_an_event_is_unknown_quotes_nothing_of_it() -> None:
    found = READER.decode("window", 1, b'{"minutes":1,"private":{"secret words":1}}')
    assert isinstance(found, Unknown)
    assert "secret words" not in found.why


def test_a_step_belongs_to_its_tag_alone() -> None:
    assert READER.decode("window_2", 1, b'{"seconds":1,"aligned":true}') == Window(1, aligned=True)
    assert isinstance(READER.decode("window_2", 1, b'{"minutes":1}'), Unknown)


@pytest.mark.parametrize(
    "upcasts",
    [
        {("window", 1): in_seconds},
        {("window", 2): aligned_and_named},
        {**UPCASTS, ("window", 3): in_seconds},
        {**UPCASTS, ("other", 1): in_seconds},
    ],
)
def test_a_table_with_a_step_missing_or_in_excess_is_refused(upcasts: dict[tuple[str, int], Upcast]) -> None:
    with pytest.raises(ValueError, match="upcasts"):
        Reader(TAGS, upcasts)


def test_every_older_version_in_production_has_its_step() -> None:
    """The reader that everything uses was built from these two tables, or nothing would have started."""
    older = {(tag, version) for tag, (_, last) in events.TAGS.items() for version in range(1, last)}
    assert set(events.UPCASTS) == older
