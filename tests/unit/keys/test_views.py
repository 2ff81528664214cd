"""What callers get of a key: never a digest, never a proof, and only secrets that still count."""

import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from keyledger import events
from keyledger.clock import parse_rfc3339
from keyledger.event_reader import Unknown
from keyledger.events import KeyTextChange, Quota, RateLimit, Recorded
from services.keys.routes import views
from services.keys.routes.limit_views import LimitView
from tests.support.spec import NOW
from tests.unit.keys.examples import (
    CALLER,
    HOUR,
    KEY,
    WS,
    changed,
    created,
    key_spec,
    revoked,
    rotated,
    workspace_changed,
    workspace_created,
    workspace_spec,
)

VIEWS = [kind for _, kind in inspect.getmembers(views, inspect.isclass) if kind.__name__.endswith("View")]
HIDDEN = ("digest", "proof", "pepper", "hash", "sealed")


def structs_in(kind: Any) -> Iterator[type[msgspec.Struct]]:
    """Every struct that an answer of this type can hold, itself included."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        yield kind
        for inner in typing.get_type_hints(kind).values():
            yield from structs_in(inner)
    elif typing.get_origin(kind) in (tuple, list, dict, typing.Union, types.UnionType):
        for inner in typing.get_args(kind):
            yield from structs_in(inner)


@pytest.mark.parametrize("view", VIEWS)
def test_no_answer_has_a_field_for_a_digest_or_a_proof(view: type[msgspec.Struct]) -> None:
    for struct in structs_in(view):
        assert struct not in (events.NewSecret, events.KeyText, events.Proof)
        assert not [field for field in struct.__struct_fields__ if any(word in field for word in HIDDEN)]


def test_only_the_answer_to_a_mint_has_a_token_in_it() -> None:
    with_token = {view.__name__ for view in VIEWS if typing.get_type_hints(view).get("key") is str}
    assert with_token == {"CreatedKeyView", "RotatedKeyView"}


def test_a_key_shows_its_contract_fields_and_no_more() -> None:
    key = key_spec.given(created(expires_at=NOW + HOUR), rotated(until=NOW + HOUR)).state
    assert key is not None
    view = msgspec.to_builtins(views.KeyView(**views.key_fields(key, NOW)))
    assert set(view) == set(
        "id workspace_id name environment scopes enabled status created_at created_by expires_at allowed_ips "
        "rate_limit external_id metadata secrets version".split()
    )
    assert (view["id"], view["workspace_id"], view["created_by"]) == (KEY, WS, CALLER)
    assert (view["status"], view["version"]) == ("active", 2)
    assert parse_rfc3339(view["expires_at"]) == NOW + HOUR
    assert [set(secret) for secret in view["secrets"]] == [{"hint", "created_at", "valid_until"}] * 2
    assert [secret["valid_until"] is None for secret in view["secrets"]] == [False, True]


def test_a_secret_that_has_ended_is_no_longer_listed() -> None:
    past = created(), rotated(2, until=NOW + HOUR), rotated(3, until=NOW + 2 * HOUR)
    key = key_spec.given(*past).state
    assert key is not None
    hints = [secret.hint[-4:] for secret in views.key_fields(key, NOW)["secrets"]]
    assert hints == ["0002", "0003"]
    later = views.key_fields(key, NOW + 2 * HOUR)
    assert [secret.hint[-4:] for secret in later["secrets"]] == ["0003"]


def recorded(tag: str) -> Recorded:
    return Recorded(9, KEY, 2, tag, 1, WS, CALLER, "req_1", NOW, b"", b"h", b"p")


def test_the_history_shows_what_was_typed_and_neither_digest_nor_proof() -> None:
    for event in (created(expires_at=NOW + 1), rotated()):
        view = views.event_view(recorded(events.tag_of(event)), event)
        text = msgspec.json.encode(view).decode()
        assert view.data["secret"] == {"hint": event.secret.hint}
        assert "digest" not in text
        assert "$proof" not in text
    assert views.event_view(recorded("key_created"), created()).data["name"] == "CI"
    change = changed(expires_at=None, private=KeyTextChange(external_id=None))
    assert views.event_view(recorded("key_changed"), change).data == {"expires_at": None, "external_id": None}


def test_the_history_writes_moments_as_rfc_3339() -> None:
    view = views.event_view(recorded("key_rotated"), rotated(until=NOW + 1))
    assert view.data["previous_valid_until"] == "2026-01-02T03:04:05.000001Z"
    assert view.at == "2026-01-02T03:04:05Z"


def test_the_history_of_an_unreadable_or_shredded_event_is_its_envelope() -> None:
    view = views.event_view(recorded("key_frozen"), Unknown("key_frozen", 1, "unknown tag"))
    assert (view.type, view.position, view.actor, view.data) == ("key_frozen", 9, CALLER, {})
    assert views.event_view(recorded("key_revoked"), revoked()).data == {}
    sealed = msgspec.structs.replace(revoked(), private=b"ciphertext")
    assert views.event_view(recorded("key_revoked"), sealed).data == {}


def test_a_workspace_shows_where_in_the_log_it_stands() -> None:
    workspace = workspace_spec.given(workspace_created()).state
    assert workspace is not None
    view = views.workspace_view(workspace, 17, events.Epoch(2, b"\x0a" * 8))
    assert (view.id, view.name, view.rate_limit) == (WS, "Acme", LimitView(100, 60))
    assert (view.position, view.epoch, view.quota) == (17, "2-0a0a0a0a0a0a0a0a", None)


def test_what_a_limit_was_before_is_not_shown() -> None:
    later = workspace_changed(rate_limit=RateLimit(200, 60, before=100, since=7), quota=Quota(5, "day", 7))
    workspace = workspace_spec.given(workspace_created(), later).state
    assert workspace is not None
    view = views.workspace_view(workspace, 17, events.Epoch(2, b"\x0a" * 8))
    told = msgspec.json.decode(msgspec.json.encode(view))
    assert told["rate_limit"] == {"limit": 200, "window_seconds": 60}
    assert told["quota"] == {"limit": 5, "period": "day"}
