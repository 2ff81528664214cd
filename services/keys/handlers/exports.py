"""An exported head held against a log: whether the log still has what was signed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from keyledger.server.signed_head import Export
from services.keys.domain.chain import ChainEnd, Difference, Differs, EpochBegun

HASHES_A_PAGE = 10_000


class Hashes(Protocol):
    """The log as far as an export is held against it."""

    async def epochs(self) -> Sequence[EpochBegun]:
        """Every epoch there ever was."""
        ...

    async def ends(self) -> tuple[ChainEnd, int]:
        """What the head says, and the last position that an event has."""
        ...

    async def hashes(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Positions and hashes after a position."""
        ...


async def hold_against(export: Export, log: Hashes) -> None:
    """Return when the log has the signed hash at the signed position, under an epoch that it still knows.

    `Differs` otherwise, naming the first position that differs where the export holds the hashes.
    """
    head = export.head
    _, last = await log.ends()
    if last < head.position:
        raise Differs(
            Difference(f"position {head.position}", "an event, for it was signed", f"an end at {last}")
        )
    if export.hashes is not None:
        at = 0
        while at < head.position:
            page = await log.hashes(at, HASHES_A_PAGE)
            for position, found in page:
                if position > head.position:
                    break
                _same(position, export.hash_of(position), found)
            at = page[-1][0] if page else head.position
    if head.position:
        page = await log.hashes(head.position - 1, 1)
        position, found = page[0] if page else (head.position, b"")
        _same(head.position, bytes.fromhex(head.hash), found if position == head.position else b"")
    if not any(
        begun.epoch == head.epoch and begun.base_position <= head.position for begun in await log.epochs()
    ):
        raise Differs(
            Difference(f"epoch {head.epoch.text}", "among the log's epochs, for it was signed", "none")
        )


def _same(position: int, signed: bytes | None, found: bytes) -> None:
    if signed != found:
        told = "no event" if signed is None else f"hash {signed.hex()}, as signed"
        raise Differs(Difference(f"position {position}", told, found.hex() or "none"))
