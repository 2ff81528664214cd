"""Waiting in tests: for a condition, with a deadline, never for a length of time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

INTERVAL = 0.01
"""Seconds between two looks at a condition."""

T = TypeVar("T")


async def until(
    condition: Callable[[], Awaitable[T | None]], *, within: float = 5.0, describe: str | None = None
) -> T:
    """Return the first truthy answer of `condition`, looking again every few milliseconds.

    An `AssertionError` that names the condition (`describe`, else its function's name) and its last
    answer is raised `within` seconds after the call, also when the condition itself hangs. What the
    condition raises is passed on at once: one that may fail for a while answers False itself.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    answer: T | None = None
    while True:
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                answer = await condition()
        except TimeoutError:
            if not limit.expired():
                raise
        if answer:
            return answer
        if loop.time() >= deadline:
            what = describe or getattr(condition, "__qualname__", repr(condition))
            message = f"not within {within:g} s: {what} (last answer: {answer!r})"
            raise AssertionError(message)
        await asyncio.sleep(INTERVAL)
