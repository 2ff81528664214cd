"""Peppers come and go while a process runs: the folder is looked at each second."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from keyledger.digest import PepperError, Peppers, age, load_peppers

INTERVAL = 1.0
_log = logging.getLogger(__name__)


class PepperWatch:
    """Keeps `peppers` as the folder is. A folder that cannot be used changes nothing, and is said once."""

    def __init__(self, folder: Path, peppers: Peppers, active: Callable[[], str]) -> None:
        """`active` names the pepper of the log; while it is not held the newest is taken for it."""
        self._folder = folder
        self._peppers = peppers
        self._active = active
        self._complained = ""

    def look(self) -> None:
        """Take the folder as it is now."""
        try:
            found = load_peppers(self._folder)
        except (PepperError, OSError) as error:
            words = str(error) if isinstance(error, PepperError) else type(error).__name__
            if words != self._complained:
                _log.error("the peppers stay as they are: %s", words)
            self._complained = words
            return
        self._complained = ""
        wanted = self._active()
        active = wanted if wanted in found.names else max(found.names, key=age)
        if not found.same(self._peppers):
            _log.info("peppers held: %s", ", ".join(sorted(found.names, key=age)))
        elif active == self._peppers.active:
            return
        self._peppers.become(found, active)

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(INTERVAL)
