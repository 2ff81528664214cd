"""Heads under a signature: what is accepted, and all that is not."""

from __future__ import annotations

import msgspec
import pytest

from keyledger.events import Epoch
from keyledger.server.signed_head import Signer, Untrusted, key_id, read, write

EPOCH = Epoch(2, bytes(range(8)))
SIGNER, OTHER = Signer("11" * 32), Signer("22" * 32)
HASHES = bytes(range(96))


def exported(signer: Signer = SIGNER, **more: bytes) -> bytes:
    return write(signer.sign(EPOCH, 3, HASHES[-32:], 5, signed_at=7, **more))


def test_what_was_signed_is_read_back() -> None:
    export = read(exported(), SIGNER.public_key)
    assert (export.head.epoch, export.head.position, export.head.at, export.head.signed_at) == (
        EPOCH,
        3,
        5,
        7,
    )
    assert export.hash_of(3) == HASHES[-32:]
    assert export.hash_of(1) is None


def test_the_hashes_are_there_for_every_position() -> None:
    export = read(exported(hashes=HASHES), SIGNER.public_key)
    assert [export.hash_of(position) for position in range(5)] == [
        None,
        HASHES[:32],
        HASHES[32:64],
        HASHES[64:],
        None,
    ]


def test_an_empty_log_can_be_signed() -> None:
    content = write(SIGNER.sign(EPOCH, 0, bytes(32), 0, signed_at=7, hashes=b""))
    assert read(content, SIGNER.public_key).head.position == 0


def test_a_signature_is_the_same_for_the_same_head() -> None:
    """Ed25519 as RFC 8032 has it, over bytes that no release may change."""
    export = SIGNER.sign(EPOCH, 3, HASHES[-32:], 5, signed_at=7)
    assert export.signature == (
        "fd51888f42c2dba180795cd302bb8718bd73533649fa28af127be23a2661c22c"
        "52676df68109dcf249663565b17ddc7dd2dbf48cd9af26afb982a49848620b07"
    )
    assert export.head.key_id == key_id(SIGNER.public_key)


@pytest.mark.parametrize(
    "field",
    [
        "epoch_number",
        "epoch_line",
        "position",
        "hash",
        "at",
        "signed_at",
        "key_id",
        "hashes_sha256",
        "format",
    ],
)
def test_no_field_can_be_changed(field: str) -> None:
    content = msgspec.json.decode(exported(hashes=HASHES))
    value = content["head"][field]
    content["head"][field] = value + 1 if isinstance(value, int) else "00" * (len(value) // 2)
    with pytest.raises(Untrusted):
        read(msgspec.json.encode(content), SIGNER.public_key)


def test_another_key_is_not_believed_even_when_it_names_ours() -> None:
    with pytest.raises(Untrusted, match=f"by the key {key_id(OTHER.public_key)}"):
        read(exported(OTHER), SIGNER.public_key)
    content = msgspec.json.decode(exported(OTHER))
    content["head"]["public_key"] = SIGNER.public_key
    with pytest.raises(Untrusted, match="signature is wrong"):
        read(msgspec.json.encode(content), SIGNER.public_key)


def test_hashes_that_were_not_signed_are_not_believed() -> None:
    with_hashes = msgspec.json.decode(exported(hashes=HASHES))
    without = msgspec.json.decode(exported())
    for hashes in (HASHES[:64], bytes(96), HASHES + HASHES):
        with pytest.raises(Untrusted, match="hashes"):
            read(msgspec.json.encode(with_hashes | {"hashes": hashes}), SIGNER.public_key)
    with pytest.raises(Untrusted, match="hashes"):
        read(msgspec.json.encode(without | {"hashes": HASHES}), SIGNER.public_key)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"head": 1, "signature": ""}'])
def test_garbage_is_refused_in_a_sentence(content: bytes) -> None:
    with pytest.raises(Untrusted, match="cannot be read"):
        read(content, SIGNER.public_key)


@pytest.mark.parametrize("secret", ["", "11", "zz" * 32, "11" * 33])
def test_a_signing_key_is_32_bytes_in_hex(secret: str) -> None:
    with pytest.raises(ValueError, match=r"hex|32 bytes"):
        Signer(secret)


def test_a_signer_shows_nothing() -> None:
    assert repr(SIGNER) == "Signer(***)"
