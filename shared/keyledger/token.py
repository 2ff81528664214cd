"""The key format: `<prefix>_<environment>_<id><secret><checksum>`, minted and parsed.

The id is the key's UUIDv7 as 22 base62 characters, the secret 32 base62 characters from a CSPRNG (190
bits), the checksum the CRC32 of everything before it as 6 base62 characters, so that a typo is refused
before any look-up and a secret scanner matches exactly. Nothing here draws random bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable
from enum import Enum

import msgspec

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ENVIRONMENTS = ("live", "test")
DEFAULT_PREFIX = "cvtk"
MAX_LENGTH = 512
ID_LENGTH, SECRET_LENGTH, CHECKSUM_LENGTH = 22, 32, 6
BODY_LENGTH = ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH
_PROVEN_LENGTH = BODY_LENGTH - CHECKSUM_LENGTH
PREFIX_PATTERN = r"[a-z][a-z0-9]{1,15}"
#: What a secret scanner may look for; the checksum then tells a real token from a lookalike.
TOKEN_PATTERN = rf"{PREFIX_PATTERN}_(?:live|test)_[0-9A-Za-z]{{{BODY_LENGTH}}}"

_PREFIX = re.compile(PREFIX_PATTERN)
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
# a checksum is read as three pairs of characters: this is on the path of every check
_PAIRS_OF = struct.Struct(f">{_PROVEN_LENGTH}xHHH").unpack
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
    """It begins like one of ours and has a wrong shape or checksum, or is longer than 512 characters.

    So is what has half of a surrogate pair in it, which cannot be written or hashed.
    """
    FOREIGN = "FOREIGN"
    """It does not look like ours at all."""


# an enumeration's own attribute costs as much as a look-up
_MALFORMED, _FOREIGN = Unparsed


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
    return base62(zlib.crc32(text.encode()), CHECKSUM_LENGTH)


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
        heads = {f"{prefix}_{each}_": each for prefix in self.prefixes for each in ENVIRONMENTS}
        # with the checksum of the head, which that of the whole goes on from
        self._heads = {head: (each, zlib.crc32(head.encode())) for head, each in heads.items()}

    def parse(self, text: str) -> Token | Unparsed:
        """As the function `parse`."""
        head = self._heads.get(text[:-BODY_LENGTH])
        if head is None:
            return self._unparsed(text)
        environment, crc = head
        body = text[-BODY_LENGTH:]
        if not body.isascii():
            return _MALFORMED
        # of bytes, only the alphabet is alphanumeric
        raw = body.encode()
        if not raw.isalnum():
            return _MALFORMED
        first, second, third = _PAIRS_OF(raw)
        given = (_PAIRS[first] * 3844 + _PAIRS[second]) * 3844 + _PAIRS[third]
        if zlib.crc32(raw[:_PROVEN_LENGTH], crc) != given:
            return _MALFORMED
        key_id = body[:ID_LENGTH]
        return Token(text, environment, f"key_{key_id}") if key_id <= _LARGEST_ID else _MALFORMED

    def _unparsed(self, text: str) -> Unparsed:
        """What a text is that does not begin like a token of ours and go on for as long as one."""
        prefix, separator, _ = text.partition("_")
        ours = separator and prefix in self.prefixes
        return _MALFORMED if ours or len(text) > MAX_LENGTH or not _is_unicode(text) else _FOREIGN


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
