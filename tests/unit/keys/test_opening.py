"""An event opened for followers: its text there, its proof gone, all else byte for byte as it was."""

import msgspec
import pytest

from keyledger import events
from keyledger.events import KeyCreated, KeyRevoked, KeyText, NewSecret, Reason
from keyledger.server.seal import TextOpener, seal_text
from services.keys.adapters.opening import opened

KEY = b"k" * 32
STREAM = "key_0000000000000000000001"
SECRET = NewSecret("cvtk_live_…0000", {"p1": bytes(range(32))})
TEXT = KeyText("Ünï", metadata={"proof": "mine"}, proof="$argon2id$v=19$theirs")


def sealed(event: KeyCreated | KeyRevoked, *, version: int = 1) -> bytes:
    place = events.private_place(STREAM, version, events.tag_of(event))
    private = seal_text(KEY, msgspec.json.encode(event.private), place)
    return events.encode(msgspec.structs.replace(event, private=private))


def test_the_text_is_opened_and_the_proof_left_out() -> None:
    event = KeyCreated("live", ("a", "*"), SECRET, expires_at=7, private=TEXT)
    data = opened(sealed(event), STREAM, 1, "key_created", TextOpener(KEY))
    assert b"argon2" not in data
    read = events.decode("key_created", 1, data)
    assert read == msgspec.structs.replace(event, private=msgspec.structs.replace(TEXT, proof=None))


def test_text_without_a_proof_is_told_whole() -> None:
    event = KeyRevoked(Reason("leaked", "a\nnote"))
    data = opened(sealed(event), STREAM, 1, "key_revoked", TextOpener(KEY))
    assert events.decode("key_revoked", 1, data) == event


@pytest.mark.parametrize("data", [b'{ "enabled" : false }', b'{"private":null,"x":[1, 2]}', b"{}"])
def test_what_has_no_private_part_passes_as_it_was_written(data: bytes) -> None:
    assert opened(data, STREAM, 1, "key_changed", TextOpener(KEY)) is data
    assert opened(data, STREAM, 1, "key_changed", None) is data


def test_what_was_shredded_is_told_without_its_text() -> None:
    event = KeyCreated("live", ("*",), SECRET, private=TEXT)
    data = opened(sealed(event), STREAM, 1, "key_created", None)
    assert msgspec.json.decode(data)["private"] is None
    assert events.decode("key_created", 1, data) == msgspec.structs.replace(event, private=None)


@pytest.mark.parametrize(("opener", "version"), [(TextOpener(b"l" * 32), 1), (TextOpener(KEY), 2)])
def test_what_does_not_open_though_it_should_stays_sealed_so_that_its_key_is_refused(
    opener: TextOpener, version: int
) -> None:
    data = sealed(KeyCreated("live", ("*",), SECRET, private=TEXT))
    assert opened(data, STREAM, version, "key_created", opener) == data


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b'{"private":5}', b'{"private":"?"}'])
def test_what_is_no_event_passes_and_never_raises(data: bytes) -> None:
    assert opened(data, STREAM, 1, "key_created", TextOpener(KEY)) == data


def test_an_opener_shows_no_key() -> None:
    assert repr(TextOpener(KEY)) == "TextOpener(***)"
