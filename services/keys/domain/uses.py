"""A batch of uses as it can be recorded: each part is looked at, and a bad one costs itself and no other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from keyledger.token import is_id
from keyledger.verification.use_rule import fault_of
from keyledger.wire import Use, UseBatch

MAX_SEQ = 2**62
MAX_VERSION = 2**31
UNREADABLE = "unreadable"
"""A part that is no use at all."""
BATCH = "batch"
"""A whole batch whose parts cannot be told apart, or that names no source that could be kept in mind."""
FIRST_USE = "first_use"
_BOOT = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_ANSWERABLE = 2**64 - 1
T = TypeVar("T")


class _Loose(Struct, frozen=True, array_like=True):
    """A batch whose parts are not looked at yet."""

    boot: str
    seq: int
    uses: tuple[Raw, ...]
    first_uses: tuple[Raw, ...] = ()


class _Source(Struct, frozen=True, array_like=True):
    """No more than whose batch it is."""

    boot: str
    seq: int


class Sifted(Struct, frozen=True):
    """What of a batch may be recorded, and how many parts may not, by the field that is wrong.

    `batch` is None when there is no source to record it for; `seq` is what its sender is told to be through.
    """

    seq: int
    batch: UseBatch | None
    refused: Mapping[str, int]


def sift(body: bytes, *, now: int) -> Sifted | None:
    """Read and check a batch that was told at `now` (µs); None when nobody knows whom to answer what."""
    refused = Counter[str]()
    batch = _decoded(body, UseBatch) or _read_part_by_part(body, refused)
    if batch is None:
        return None
    if _BOOT.fullmatch(batch.boot) is None or not 0 <= batch.seq < MAX_SEQ:
        refused[BATCH] = max(1, len(batch.uses))
        return Sifted(batch.seq, None, refused) if batch.seq < _ANSWERABLE else None
    sound: list[Use] = []
    for use in batch.uses:
        if (fault := fault_of(use, now=now)) is None:
            sound.append(use)
        else:
            refused[fault] += 1
    firsts = tuple(each for each in batch.first_uses if is_id(each[0], "key") and 1 <= each[1] < MAX_VERSION)
    if len(firsts) < len(batch.first_uses):
        refused[FIRST_USE] += len(batch.first_uses) - len(firsts)
    return Sifted(batch.seq, UseBatch(batch.boot, batch.seq, tuple(sound), firsts), refused)


def _read_part_by_part(body: bytes, refused: Counter[str]) -> UseBatch | None:
    """What can be read of a batch that as a whole cannot; the rest is noted in `refused`."""
    if (loose := _decoded(body, _Loose)) is None:
        if (source := _decoded(body, _Source)) is None:
            return None
        refused[BATCH] += 1
        return UseBatch(source.boot, source.seq, ())
    uses = _readable(loose.uses, Use, UNREADABLE, refused)
    firsts = _readable(loose.first_uses, tuple[str, int], FIRST_USE, refused)
    return UseBatch(loose.boot, loose.seq, tuple(uses), tuple(firsts))


def _readable(parts: Iterable[Raw], kind: type[T], name: str, refused: Counter[str]) -> list[T]:
    found: list[T] = []
    for part in parts:
        read = _decoded(part, kind)
        if read is None:
            refused[name] += 1
        else:
            found.append(read)
    return found


def _decoded(body: bytes | Raw, kind: type[T]) -> T | None:
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
