"""The wire is frozen: what was ever written is read for ever, and what is written today does not drift.

The golden files beside this test are never edited. Tokens, digests and the chain in them were computed from
the design's words and not by this code; `tests/contract/wire_examples.py` says what the rest means.
"""

import re
from typing import Any

import msgspec
import pytest

from keyledger import events, grants, wire
from keyledger.digest import Peppers
from keyledger.event_reader import Unknown
from keyledger.events import GENESIS, Event, chain_hash
from keyledger.server.seal import Sealer, open_text, seal_text
from keyledger.token import Token, Unparsed, hint, mint, parse
from tests.contract.wire_examples import CHAIN, EPOCH_LINE, EVENTS, GOLDEN, STRUCTS, golden

_EVENT_FILE = re.compile(r"(\w+)\.v(\d+)\.json")

TOKENS = golden("tokens.json")
VERSIONS = sorted(
    (found.group(1), int(found.group(2)))
    for path in GOLDEN.iterdir()
    if (found := _EVENT_FILE.fullmatch(path.name))
)
CASES = [
    pytest.param(tag, version, text, EVENTS.get((tag, version), {}).get(name), id=f"{tag}.v{version}-{name}")
    for tag, version in VERSIONS
    for name, text in golden(f"{tag}.v{version}.json").items()
]


def test_every_event_has_a_golden_file_of_every_version() -> None:
    wanted = {(tag, version) for tag, (_, last) in events.TAGS.items() for version in range(1, last + 1)}
    assert set(VERSIONS) >= wanted, "write golden files for the new events or versions"
    assert set(VERSIONS) == set(EVENTS)
    for tag, version in VERSIONS:
        assert set(golden(f"{tag}.v{version}.json")) == set(EVENTS[tag, version])


@pytest.mark.parametrize("tag", sorted(events.TAGS))
def test_every_event_is_frozen_with_every_field_and_sealed(tag: str) -> None:
    """An example that leaves a field out would not notice that field's change."""
    kind, version = events.TAGS[tag]
    texts = golden(f"{tag}.v{version}.json")
    written = set[str]().union(*(msgspec.json.decode(text) for text in texts.values()))
    assert written == set(kind.__struct_fields__)
    if "private" in written:
        assert isinstance(msgspec.json.decode(texts["sealed"])["private"], str)


@pytest.mark.parametrize(("tag", "version", "text", "event"), CASES)
def test_an_event_of_any_version_is_read_as_what_it_meant(
    tag: str, version: int, text: str, event: Event | None
) -> None:
    assert event is not None
    assert events.decode(tag, version, text.encode()) == event


@pytest.mark.parametrize(("tag", "version", "text", "event"), CASES)
def test_an_event_is_written_today_byte_for_byte_as_ever(
    tag: str, version: int, text: str, event: Event
) -> None:
    if version == events.TAGS[tag][1]:
        assert events.encode(event) == text.encode()
        assert (events.tag_of(event), events.schema_version_of(event)) == (tag, version)


@pytest.mark.parametrize(("tag", "version", "text", "event"), CASES)
def test_one_unreadable_event_is_unknown_and_never_an_exception(
    tag: str, version: int, text: str, event: Event
) -> None:
    del event
    future = events.decode(tag, events.TAGS[tag][1] + 1, text.encode())
    assert isinstance(future, Unknown)
    assert isinstance(events.decode(f"{tag}_2", version, text.encode()), Unknown)
    for cut in range(len(text.encode()) - 1):
        assert isinstance(events.decode(tag, version, text.encode()[:cut]), Unknown)


@pytest.mark.parametrize(("tag", "version", "text", "event"), CASES)
def test_an_old_reader_passes_over_a_field_from_the_future(
    tag: str, version: int, text: str, event: Event
) -> None:
    more = msgspec.json.encode(msgspec.json.decode(text) | {"colour": {"red": [1]}})
    assert events.decode(tag, version, more) == event


def test_a_chain_has_its_frozen_hashes_from_genesis_on() -> None:
    previous = GENESIS
    hashes = golden("chain.json")
    assert len(hashes) == len(CHAIN)
    for event, expected in zip(CHAIN, hashes, strict=True):
        previous = chain_hash(previous, EPOCH_LINE, event)
        assert previous.hex() == expected


def test_every_message_between_processes_is_frozen() -> None:
    frozen = {
        wire.Followed,
        wire.UseBatch,
        wire.RecordedUses,
        wire.ErasedUses,
        wire.Page,
        wire.Head,
        wire.HeadQuestion,
        wire.SnapshotPage,
        grants.Ask,
        grants.Grants,
        grants.Recall,
    }
    assert {type(struct) for struct in STRUCTS.values()} == frozen
    assert set(golden("structs.json")) == set(STRUCTS)


def test_every_message_is_frozen_with_every_field_that_it_has_today() -> None:
    """What was frozen before a field came would not notice that field's change."""
    frozen = golden("structs.json")
    whole = {
        type(struct)
        for name, struct in STRUCTS.items()
        if msgspec.msgpack.encode(struct).hex() == frozen[name]
    }
    assert whole == {type(struct) for struct in STRUCTS.values()}


@pytest.mark.parametrize(("name", "text"), golden("structs.json").items())
def test_a_message_is_read_and_written_byte_for_byte_as_ever(name: str, text: str) -> None:
    """What was added since stands behind what was written then, and had a default."""
    struct = STRUCTS[name]
    assert msgspec.msgpack.decode(bytes.fromhex(text), type=type(struct)) == struct
    written = msgspec.msgpack.encode(struct)
    then, now = msgspec.msgpack.decode(bytes.fromhex(text)), msgspec.msgpack.decode(written)
    assert _cut(now, then) == then
    if now == then:
        assert written.hex() == text


def _cut(now: Any, then: Any) -> Any:
    """What is written now without what was added at the end of any array since."""
    if not isinstance(now, list) or not isinstance(then, list):
        return now
    return [_cut(*pair) for pair in zip(now, then, strict=False)]


@pytest.mark.parametrize(("name", "struct"), STRUCTS.items())
def test_an_old_reader_passes_over_what_is_added_at_the_end(name: str, struct: Any) -> None:
    del name
    longer = msgspec.msgpack.encode([*msgspec.structs.astuple(struct), "from the future"])
    assert msgspec.msgpack.decode(longer, type=type(struct)) == struct


@pytest.mark.parametrize("entry", TOKENS["minted"])
def test_a_token_is_minted_as_ever(entry: dict[str, str]) -> None:
    token = mint(entry["prefix"], entry["environment"], entry["key_id"], entry["secret"])
    assert token.reveal() == entry["token"]
    assert hint(token) == entry["hint"]


@pytest.mark.parametrize(("text", "outcome"), TOKENS["parsed"])
def test_a_text_is_told_apart_as_ever(text: str, outcome: str) -> None:
    parsed = parse(text, TOKENS["prefixes"])
    if outcome.startswith("key_"):
        assert isinstance(parsed, Token)
        assert (parsed.key_id, parsed.text) == (outcome, text)
        assert parsed.environment == text.split("_")[1]
    else:
        assert parsed is Unparsed(outcome)


def test_every_digest_is_as_ever() -> None:
    frozen = golden("digests.json")
    held = {name: bytes.fromhex(pepper) for name, pepper in frozen["peppers"].items()}
    for entry in frozen["digests"]:
        peppers = Peppers(held, entry["pepper"])
        assert peppers.digest(entry["token"]).hex() == entry["digest"]
        assert peppers.proves(entry["token"], {entry["pepper"]: bytes.fromhex(entry["digest"])})


@pytest.mark.parametrize(("tag", "version", "text", "event"), CASES)
def test_a_private_part_survives_being_sealed(tag: str, version: int, text: str, event: Event) -> None:
    """The whole way: sealed into the log's bytes, decoded from them, opened where it stands."""
    del text
    private: Any = getattr(event, "private", None)
    if private is None or isinstance(private, bytes):
        return
    key, wrapped = Sealer(b"s" * 32).new_data_key("ws")
    place = events.private_place("key_a", 3, tag)
    sealed = msgspec.structs.replace(event, private=seal_text(key, msgspec.json.encode(private), place))
    stored = events.decode(tag, version, events.encode(sealed))
    closed: Any = getattr(stored, "private", None)
    assert isinstance(closed, bytes)
    opened = open_text(Sealer(b"s" * 32).unwrap("ws", wrapped), closed, place)
    assert msgspec.json.decode(opened, type=type(private)) == private
