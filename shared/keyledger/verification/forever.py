"""A step done for ever: what fails is tried again, less and less often."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from keyledger.verification.ports import FeedUnavailable
from keyledger.verification.store import StoreUnavailable

LONGEST_PAUSE = 5.0
"""Seconds."""
_log = logging.getLogger(__name__)


async def forever(step: Callable[[], Awaitable[None]]) -> None:
    """Do `step` again and again; after a failure pause, longer each time and never in step with others."""
    failures = 0
    while True:
        try:
            await step()
            failures = 0
        except Exception as error:
            if failures == 0:
                # the type only, unless the words are our own
                words = (
                    error if isinstance(error, FeedUnavailable | StoreUnavailable) else type(error).__name__
                )
                _log.warning("following is hindered: %s", words)
            failures += 1
            pause = min(LONGEST_PAUSE, 0.1 * 2 ** min(failures, 10))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)
