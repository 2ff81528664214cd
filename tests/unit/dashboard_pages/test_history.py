"""The log in words."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from keyledger.client.records import KeyEvent
from keyledger.events import TAGS
from services.dashboard.pages.actors import Names
from services.dashboard.pages.history import entry, names_in
from services.dashboard.ports import Person
from tests.support.dashboard_backend import made_id

ADA, BOB = made_id("user", 1), made_id("user", 2)
KEY, WORKSPACE = made_id("key", 1), made_id("ws", 1)
NAMES = Names({ADA: Person(ADA, "Ada", None), BOB: Person(BOB, "Bob", None)}, {KEY: "billing"})


def event(type_: str, data: dict[str, Any] | None = None, stream: str = KEY, actor: str = ADA) -> KeyEvent:
    return KeyEvent(
        position=9, version=2, type=type_, at=datetime(2026, 11, 2, tzinfo=UTC), actor=actor,
        request_id="req_1", data=data or {}, stream=stream,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        (event("key_created"), "Ada created “billing”"),
        (event("key_imported"), "Ada imported “billing”"),
        (event("key_rotated"), "Ada rotated “billing”"),
        (event("key_revoked"), "Ada revoked “billing”"),
        (event("key_changed", {"scopes": ["a"]}), "Ada changed “billing”"),
        (event("key_changed", {"enabled": False}), "Ada disabled “billing”"),
        (event("key_changed", {"enabled": True}), "Ada enabled “billing”"),
        (event("secret_retired", actor="system"), "Keyledger ended the previous secret of “billing”"),
        (event("workspace_created", {"name": "x"}, WORKSPACE), "Ada created the workspace"),
        (event("workspace_changed", {"name": "x"}, WORKSPACE), "Ada renamed the workspace"),
        (event("workspace_changed", {"suspended": True}, WORKSPACE), "Ada suspended the workspace"),
        (event("member_added", {"user": BOB, "role": "viewer"}, WORKSPACE), "Ada added Bob"),
        (event("member_added", {"user": ADA, "role": "owner"}, WORKSPACE), "Ada joined the workspace"),
        (event("member_changed", {"user": BOB, "role": "admin"}, WORKSPACE), "Ada changed the role of Bob"),
        (event("member_removed", {"user": BOB}, WORKSPACE), "Ada removed Bob"),
        (event("member_removed", {"user": ADA}, WORKSPACE), "Ada left the workspace"),
        (event("key_painted"), "Ada recorded key painted “billing”"),
    ],
)
def test_an_event_is_one_sentence(told: KeyEvent, sentence: str) -> None:
    assert entry(told, NAMES).sentence == sentence


@pytest.mark.parametrize(
    "tag", [tag for tag in TAGS if tag.startswith(("key_", "secret_", "workspace_", "member_"))]
)
def test_every_event_of_a_workspace_has_words_of_its_own(tag: str) -> None:
    assert "recorded" not in entry(event(tag, {"user": BOB}), NAMES).did


def test_the_details_say_what_the_event_holds() -> None:
    told = entry(
        event(
            "key_created",
            {
                "name": "billing", "environment": "live", "scopes": ["*"],
                "expires_at": "2027-01-01T00:00:00Z",
                "rate_limit": {"limit": 5, "window_seconds": 60}, "allowed_ips": None,
                "metadata": {"a": "b"}, "secret": {"hint": "cvtk_live_…abcd"},
            },
        ),
        NAMES,
    )  # fmt: skip
    details = {each.label: each.text for each in told.details}
    assert details == {
        "Name": "billing", "Environment": "live", "Scopes": "everything (*)", "Limit": "5 per minute",
        "Expires": "2027-01-01T00:00:00Z", "Addresses": "any", "Metadata": "1 pair",
        "Secret": "cvtk_live_…abcd",
    }  # fmt: skip
    (expires,) = (each for each in told.details if each.label == "Expires")
    assert expires.at is not None
    assert expires.at.iso == "2027-01-01T00:00:00Z"


def test_a_rotation_says_when_the_old_secret_ends() -> None:
    data = {"secret": {"hint": "h"}, "previous_valid_until": "2026-11-03T00:00:00Z", "retire": "on_first_use"}
    labels = [each.label for each in entry(event("key_rotated", data), NAMES).details]
    assert labels == ["Secret", "Previous secret ends", "Ends early"]


def test_what_was_cleared_is_told_as_cleared() -> None:
    data = {"rate_limit": None, "expires_at": None, "external_id": None}
    told = {each.label: each.text for each in entry(event("key_changed", data), NAMES).details}
    assert told == {"Expires": "never", "Limit": "only the workspace’s", "External id": "none"}


@pytest.mark.parametrize(
    "data", [{"secret": 3}, {"rate_limit": 7}, {"expires_at": "soon"}, {"user": 5}, {"scopes": []}]
)
def test_data_of_another_shape_is_no_failure(data: dict[str, Any]) -> None:
    """A later version may write what this one does not know."""
    assert entry(event("key_changed", data), NAMES).did


def test_an_event_without_a_stream_is_about_no_key() -> None:
    told = entry(event("key_created", stream=""), NAMES)
    assert (told.key_id, told.subject) == (None, "")


def test_the_log_itself_tells_what_keys_are_called_the_latest_name_wins() -> None:
    other = made_id("key", 2)
    renamed = msgspec.structs.replace(event("key_changed", {"name": "payments"}), position=12)
    events = [
        renamed,
        event("key_created", {"name": "billing"}),
        event("key_imported", {"name": "old"}, other),
    ]
    events += [
        event("workspace_created", {"name": "Acme"}, WORKSPACE),
        event("key_changed", {"enabled": True}),
    ]
    assert names_in(events) == {KEY: "payments", other: "old"}
