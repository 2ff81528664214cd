"""What cannot be read or opened stays closed, and closes its key at the followers."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from keyledger import events
from keyledger.events import KeyChanged, KeyTextChange, Unknown
from keyledger.server.seal import seal_text
from services.keys.adapters.feed import opened

KEY, OTHER = os.urandom(32), os.urandom(32)


def row(data: bytes) -> dict[str, Any]:
    return {"data": data, "stream_id": "key_1", "version": 2, "type": "key_changed"}


def sealed() -> bytes:
    text = msgspec.json.encode(KeyTextChange(allowed_ips=("10.0.0.0/8",)))
    place = events.private_place("key_1", 2, "key_changed")
    return events.encode(KeyChanged(private=seal_text(KEY, text, place)))


def test_a_restriction_is_opened_with_its_own_key() -> None:
    event = events.decode("key_changed", 1, opened(row(sealed()), KEY))
    assert event == KeyChanged(private=KeyTextChange(allowed_ips=("10.0.0.0/8",)))


def test_a_restriction_that_does_not_open_is_not_taken_for_no_restriction() -> None:
    event = events.decode("key_changed", 1, opened(row(sealed()), OTHER))
    assert isinstance(event, KeyChanged)
    assert isinstance(event.private, bytes)


@pytest.mark.parametrize("data", [b"{", b"\xff", b'{"private": 5}', b'{"private": "not base64!"}'])
def test_data_that_cannot_be_read_is_passed_on_and_is_unknown(data: bytes) -> None:
    assert isinstance(events.decode("key_changed", 1, opened(row(data), KEY)), Unknown)
