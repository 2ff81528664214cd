"""The key format: `<prefix>_<environment>_<id><secret><checksum>`, minted and parsed.

The id is the key's UUIDv7 as 22 base62 characters, the secret 32 base62 characters from a CSPRNG (190
bits), the checksum the CRC32 of everything before it as 6 base62 characters, so that a typo is refused
before any look-up and a secret scanner matches exactly. Nothing here draws random bytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from enum import Enum
from zlib import crc32

import msgspec

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ENVIRONMENTS = ("live", "test")
DEFAULT_PREFIX = "cvtk"
MAX_LENGTH = 512
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 22, 32, 6
BODY_LENGTH = ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH
_ID_END = ID_LENGTH - BODY_LENGTH
PREFIX_PATTERN = r"[a-z][a-z0-9]{1,15}"
#: What a secret scanner may look for; the checksum then tells a real token from a lookalike.
TOKEN_PATTERN = rf"{PREFIX_PATTERN}_(?:live|test)_[0-9A-Za-z]{{{BODY_LENGTH}}}"

_PREFIX = re.compile(PREFIX_PATTERN)
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
_BYTES = ALPHABET.encode()
# a checksum is read as three pairs of characters: this is on the path of every check
_PAIRS_OF = struct.Struct(">HHH").unpack_from
_PAIRS = {
    ord(left) << 8 | ord(right): 62 * _VALUES[left] + _VALUES[right]
    for left in ALPHABET
    for right in ALPHABET
}
_ID = re.compile(rf"[0-9A-Za-z]{{{ID_LENGTH}}}", re.ASCII)
_BODY = re.compile(rf"[0-9A-Za-z]{{{BODY_LENGTH}}}", re.ASCII)


class Secret:
    """A string that must not be shown: its repr and str are stars, `reveal()` is the only way out."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The string itself; call this only where it leaves for the person it belongs to, or is hashed."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__


class Unparsed(Enum):
    """Why a presented text is no token of ours."""

    MALFORMED = "MALFORMED"
    """It begins like one of ours and has a wrong shape or checksum, or is longer than 512 characters."""
    FOREIGN = "FOREIGN"
    """It does not look like ours at all."""


class Token(msgspec.Struct, frozen=True, gc=False, repr_omit_defaults=True):
    """A presented token whose shape and checksum are right. It proves nothing yet."""

    text: str
    environment: str
    key_id: str

    def __repr__(self) -> str:
        return f"Token({self.key_id})"


def base62(value: int, length: int) -> str:
    """`value` in base62, left-padded with `0` to `length`; `ValueError` if it does not fit."""
    digits: list[str] = []
    for _ in range(length):
        value, digit = divmod(value, 62)
        digits.append(ALPHABET[digit])
    if value:
        raise ValueError("the value does not fit")
    return "".join(reversed(digits))


# the alphabet is in ASCII order, so texts of one length compare as their numbers do
_LARGEST_ID = base62(2**128 - 1, ID_LENGTH)


def base62_value(text: str) -> int:
    """The number that `text` writes in base62; `KeyError` for a foreign character."""
    value = 0
    for character in text:
        value = value * 62 + _VALUES[character]
    return value


def checksum(text: str) -> str:
    """The six characters that end a token whose earlier part is `text`."""
    return base62(crc32(text.encode()), CHECKSUM_LENGTH)


def is_id(text: str, kind: str) -> bool:
    """Whether `text` is a well-formed id of this kind (`key`, `ws`): 22 base62 characters below 2^128."""
    head, _, tail = text.partition("_")
    return head == kind and _ID.fullmatch(tail) is not None and tail <= _LARGEST_ID


def is_prefix(text: str) -> bool:
    """Whether `text` may be configured as a token prefix."""
    return _PREFIX.fullmatch(text) is not None


def mint(prefix: str, environment: str, key_id: str, secret: str) -> Secret:
    """The token of `key_id` (`key_…`) with this 32-character secret."""
    head = f"{prefix}_{environment}_{key_id.removeprefix('key_')}{secret}"
    return Secret(head + checksum(head))


def hint(token: Secret) -> str:
    """What may be shown of a token for ever: its head up to the environment, and its last four characters."""
    text = token.reveal()
    return f"{text[:-BODY_LENGTH]}…{text[-4:]}"


def parse(text: str, prefixes: Iterable[str] = (DEFAULT_PREFIX,)) -> Token | Unparsed:
    """Tell a token of ours, by shape and checksum, from a malformed or a foreign text.

    `prefixes` are the configured one and the old ones that stay accepted.
    """
    return Format(prefixes).parse(text)


class Format:
    """The prefixes that are ours, prepared: whoever parses more than once keeps one of these."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        self.prefixes = tuple(prefixes)
        self._environments = {
            f"{prefix}_{environment}_": environment
            for prefix in self.prefixes
            for environment in ENVIRONMENTS
        }

    def parse(self, text: str) -> Token | Unparsed:
        """As the function `parse`."""
        environment = self._environments.get(text[:-BODY_LENGTH])
        if environment is None:
            return self._unparsed(text)
        if not text.isascii():
            return Unparsed.MALFORMED
        raw = text.encode()
        first, second, third = _PAIRS_OF(raw, -CHECKSUM_LENGTH)
        try:
            given = (_PAIRS[first] * 3844 + _PAIRS[second]) * 3844 + _PAIRS[third]
        except KeyError:
            return Unparsed.MALFORMED
        # what was mistyped is told by this alone, and quickly
        if crc32(raw[:-CHECKSUM_LENGTH]) != given:
            return Unparsed.MALFORMED
        key_id = text[-BODY_LENGTH:_ID_END]
        if raw[-BODY_LENGTH:].translate(None, _BYTES) or key_id > _LARGEST_ID:
            return Unparsed.MALFORMED
        return Token(text, environment, f"key_{key_id}")

    def _unparsed(self, text: str) -> Unparsed:
        """What a text is that does not begin like a token of ours and go on for as long as one."""
        prefix, separator, _ = text.partition("_")
        ours = separator and prefix in self.prefixes
        return Unparsed.MALFORMED if ours or len(text) > MAX_LENGTH else Unparsed.FOREIGN
