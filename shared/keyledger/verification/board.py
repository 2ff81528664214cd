"""The page that the processes of one verifier share: which store is current, how fresh it is, what changed.

One process writes, any number read. Each fact stands twice, with a checksum, and a counter says which of the
two holds: a writer that is killed in the middle leaves the other one whole. The generation counts changed
records, so a reader drops from its memory just those that changed since it last looked, or, lapped, all.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import Struct

from keyledger.events import Epoch

RING = 4096
"""Changed records that a reader may be behind before it drops all it has in memory."""
_NAME = 64
_RING_AT = 4096
SIZE = _RING_AT + RING * _NAME
_SLOT = 256
_MAGIC = b"KLBOARD\x01"
_HEAD = struct.Struct("<8s16s16s")
# the counters, as indices into the page taken as 64-bit numbers
GENERATION, _STATE, _STANDING, _BROKEN, _STARTS, _WANTED = 8, 9, 10, 11, 12, 13
_SLOTS = {_STATE: 512, _STANDING: 1024}
_FRAME = struct.Struct("<HI")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_Fact = TypeVar("_Fact", bound=Struct)


class Current(Struct, frozen=True, array_like=True):
    """What is committed: the file of this serial is at `position`, after all changes up to `generation`.

    `sidelined` counts the changes of what readers keep whole; `metas` are the checksums of the two pages in
    which LMDB says where everything is.
    """

    generation: int = 0
    serial: int = 0
    position: int = 0
    epoch: Epoch | None = None
    sidelined: int = 0
    metas: tuple[int, int] = (0, 0)


class Standing(Struct, frozen=True, array_like=True):
    """What the process that follows knows of its freshness; instants are seconds of `Clock.steady`.

    `beat` is when it last said that it is alive.
    """

    beat: float = 0.0
    proven_at: float | None = None
    held_at: float | None = None
    head: int = 0
    hearing: bool = False
    pepper: str = ""
    unreadable: int = 0
    rebuilds: int = 0
    forks: int = 0


class Board:
    """The page; `memory` is a shared mapping, or plain memory for a store that nobody else reads."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._memory = memory
        self._view = memoryview(memory)
        self.counters = self._view.cast("Q")
        """Read `counters[GENERATION]` at every check; it is one load of a machine word."""

    @classmethod
    def private(cls) -> Board:
        """A page of this process alone."""
        return cls(bytearray(SIZE))

    @classmethod
    def open(cls, path: Path) -> Board:
        """Map the page at `path`, made of zeros where there is none of its size; `OSError` when it cannot be.

        Its blocks are there from the start, so that a full disk never shows as a fault of the memory.
        """
        with suppress(FileNotFoundError):
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_size != SIZE:
                _set_aside(path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size != SIZE:
                os.ftruncate(descriptor, SIZE)
            os.posix_fallocate(descriptor, 0, SIZE)
            return cls(mmap.mmap(descriptor, SIZE))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Unmap; nothing of it may be used afterwards."""
        self.counters.release()
        self._view.release()
        if isinstance(self._memory, mmap.mmap):
            self._memory.close()

    # -- whose it is

    def belongs(self, boot: bytes, owner: bytes) -> str | None:
        """Why this page is not of this boot of the machine and this owner; None when it is."""
        magic, its_boot, its_owner = _HEAD.unpack_from(self._view)
        if magic == bytes(len(_MAGIC)):
            return "there was none"
        if magic != _MAGIC:
            return "another schema, or no page of ours"
        if its_boot != boot or not any(boot):
            return "the machine was started anew"
        if its_owner != owner:
            return "it follows another key service"
        if self._read(_STATE, Current) is None:
            return "its page is damaged"
        return None

    def claim(self, boot: bytes, owner: bytes) -> None:
        """Begin anew: nothing is known, and readers drop what they have."""
        generation = self.counters[GENERATION]
        for slot in _SLOTS.values():
            self._view[slot : slot + 2 * _SLOT] = bytes(2 * _SLOT)
        for counter in (_BROKEN, _STARTS):
            self.counters[counter] = 0
        _HEAD.pack_into(self._view, 0, _MAGIC, boot, owner)
        self.counters[GENERATION] = generation
        self.stand(Standing())
        self.publish(Current(), None)

    # -- the two facts

    @property
    def current(self) -> Current:
        """What is committed."""
        return self._read(_STATE, Current) or Current()

    @property
    def standing(self) -> Standing:
        """How the follower stands."""
        return self._read(_STANDING, Standing) or Standing()

    @property
    def standing_count(self) -> int:
        """How often `stand` was called: what was read of it holds while this does not change."""
        return self.counters[_STANDING]

    def publish(self, current: Current, changed: Sequence[str] | None) -> int:
        """Say what is committed, after it is, and which records changed, None for all; the new generation.

        Whoever reads it later finds it whole, at whatever point this process is killed.
        """
        before = max(self.counters[GENERATION], self.current.generation)
        if changed is None or len(changed) > RING:
            generation = before + RING + 1
        else:
            generation = before + max(1, len(changed))
            for at, record_id in enumerate(changed or ("",), before):
                start = _RING_AT + at % RING * _NAME
                self._view[start : start + _NAME] = record_id.encode()[:_NAME].ljust(_NAME, b"\0")
        self._write(_STATE, msgspec.structs.replace(current, generation=generation))
        self.counters[GENERATION] = generation
        return generation

    def stand(self, standing: Standing) -> None:
        """Say how the follower stands."""
        self._write(_STANDING, standing)

    def _write(self, counter: int, fact: Struct) -> None:
        body = msgspec.msgpack.encode(fact)
        if len(body) > _SLOT - _FRAME.size:
            raise ValueError("there is no room for this on the page")
        count = self.counters[counter] + 1
        at = _SLOTS[counter] + (count & 1) * _SLOT
        framed = _FRAME.pack(len(body), zlib.crc32(body)) + body
        self._view[at : at + len(framed)] = framed
        self.counters[counter] = count

    def _read(self, counter: int, kind: type[_Fact]) -> _Fact | None:
        for _ in range(8):
            count = self.counters[counter]
            at = _SLOTS[counter] + (count & 1) * _SLOT
            framed = bytes(self._view[at : at + _SLOT])
            size, crc = _FRAME.unpack_from(framed)
            body = framed[_FRAME.size : _FRAME.size + size]
            if len(body) == size and size and zlib.crc32(body) == crc:
                try:
                    return msgspec.msgpack.decode(body, type=kind)
                except msgspec.MsgspecError:
                    return None
            # the writer came round twice meanwhile
        return None

    # -- what changed

    def changes(self, since: int, until: int) -> Iterable[str] | None:
        """The records that changed between these generations; None for all."""
        if not 0 <= until - since <= RING:
            return None
        found = [self._name(at) for at in range(since, until)]
        # while they were read the writer may have gone over them
        return None if self.current.generation - since > RING else found

    def _name(self, at: int) -> str:
        start = _RING_AT + at % RING * _NAME
        return bytes(self._view[start : start + _NAME]).rstrip(b"\0").decode(errors="replace")

    # -- flags, each a number that anyone may set

    @property
    def broken(self) -> bool:
        """Whether somebody met a row that is not what was written."""
        return self.counters[_BROKEN] != 0

    @broken.setter
    def broken(self, value: bool) -> None:
        self.counters[_BROKEN] = int(value)

    @property
    def starts(self) -> int:
        """Starts of the writing process since it last proved that it can follow."""
        return self.counters[_STARTS]

    @starts.setter
    def starts(self, value: int) -> None:
        self.counters[_STARTS] = value

    @property
    def wanted(self) -> int:
        """The position that a reader waits for, and would have the follower ask about."""
        return self.counters[_WANTED]

    @wanted.setter
    def wanted(self, value: int) -> None:
        self.counters[_WANTED] = value


def boot_id() -> bytes:
    """16 bytes that are others after each start of the machine; zeros, which nothing trusts, if unknown."""
    try:
        return bytes.fromhex(_BOOT_ID.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def owner_id(text: str) -> bytes:
    """16 bytes that stand for whom a store follows."""
    return hashlib.sha256(text.encode()).digest()[:16]


def _set_aside(path: Path) -> None:
    """Make room for a file: a foreign one goes, a folder is only renamed."""
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}.foreign-{os.urandom(4).hex()}"))
    else:
        path.unlink()
