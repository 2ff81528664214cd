"""The log over Postgres: concurrent commands share one call of `ledger.append`, each with its own answer.

One writer task takes all that waits, up to a bound, so that one commit (one fsync) serves many callers. It
has one group under way: a second would wait for the head until the first one's fsync, in half the size.
An error of the database has each re-run alone, so that only the one it belongs to is refused; a connection
lost at COMMIT has each looked up by its id before it is tried again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import asyncpg
import structlog

from keyledger.errors import Refusal, conflict, not_found, unavailable
from keyledger.events import Epoch
from keyledger.server.postgres import AWAY, UNDONE, Pool, fetch, postgres_away
from services.keys.domain.roles import MAX_WORKSPACES
from services.keys.ports import AlreadyAnswered, AnswerInProgress, Appended, Command, VersionConflict

MAX_GROUP = 64
MAX_WAITING = 1024
ACQUIRE_TIMEOUT = 2.0
TRIES, PAUSE = 3, 0.2
"""How often it is asked what became of a command, and the most seconds between: whoever kills one connection
kills the pool's others, too."""
_WORKSPACE_DELETED = "KL404"
_TOO_MANY_WORKSPACES = "KL409"
_APPEND = "SELECT * FROM ledger.append($1, $2)"
_BY_COMMAND = """
    SELECT e.version, e.position, e.at, h.epoch_number, h.epoch_line
      FROM ledger.event e, ledger.log_head h WHERE e.command_id = $1 ORDER BY e.position DESC LIMIT 1
"""
#: What is wrong with a command itself: the database refused it, or it could not even be sent.
_POISON = (asyncpg.PostgresError, ValueError, TypeError, OverflowError)
_log = structlog.get_logger("keyledger.log")
_Waiting: TypeAlias = tuple[Command, asyncio.Future[Appended]]
_Call: TypeAlias = Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]


class PostgresLog:
    """`EventLog` on a pool. `on_commit` is called after each commit, to wake the relay."""

    def __init__(self, pool: Pool, *, on_commit: Callable[[], None] = lambda: None) -> None:
        self._pool = pool
        self._on_commit = on_commit
        self.committed: Appended | None = None
        """The last commit of this process, which nobody else may have heard of yet."""
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(MAX_WAITING)
        self._writer: asyncio.Task[None] | None = None
        # the writer's own from group to group: to ask the pool each time costs a fifth of its time
        self._kept: Any = None

    async def __aenter__(self) -> PostgresLog:
        self._writer = asyncio.create_task(self._write(), name="log-writer")
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        await self._give_back()
        while not self._queue.empty():
            _, answer = self._queue.get_nowait()
            if not answer.done():
                answer.set_exception(unavailable("unavailable", "The service is stopping."))

    async def append(self, command: Command) -> Appended:
        """Commit the command with whatever else waits; see `EventLog`."""
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait((command, answer))
        except asyncio.QueueFull:
            raise unavailable("busy", "Too many writes are waiting.") from None
        return await answer

    async def _write(self) -> None:
        while True:
            group = [await self._queue.get()]
            while len(group) < MAX_GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            try:
                await self._commit(group, self._call_kept)
            except Exception as error:
                # a defect costs its group: without a writer, every later caller would wait for ever
                _log.error("append_failed", error=type(error).__name__)
            finally:
                for _, answer in group:
                    if not answer.done():
                        answer.set_exception(unavailable("outcome_unknown", "The write was interrupted."))

    async def _commit(self, group: Sequence[_Waiting], call: _Call | None = None) -> None:
        try:
            rows = await (call or self._call)([command for command, _ in group])
        except Exception as error:
            await self._failed(group, error)
        else:
            for (_, answer), row in zip(group, rows, strict=True):
                outcome = outcome_of(row)
                if isinstance(outcome, Appended) and self._is_news(outcome):
                    self.committed = outcome
                _give(answer, outcome)
            self._on_commit()

    def _is_news(self, appended: Appended) -> bool:
        last = self.committed
        return last is None or last.epoch != appended.epoch or last.position < appended.position

    async def _failed(self, group: Sequence[_Waiting], error: Exception) -> None:
        alone = len(group) == 1
        if isinstance(error, asyncpg.LockNotAvailableError) and not alone:
            # the lock that did not come may be one command's own
            await asyncio.gather(*(self._commit([waiting]) for waiting in group))
        elif isinstance(error, (Refusal, *UNDONE)):
            # nothing was written
            for _, answer in group:
                _give(answer, postgres_away())
        elif isinstance(error, AWAY) or not isinstance(error, _POISON):
            await asyncio.gather(*(self._settle(command, answer) for command, answer in group))
            self._on_commit()
        elif alone:
            _give(group[0][1], refused_by_database(error))
        else:
            for waiting in group:
                await self._commit([waiting])

    async def _call(self, commands: Sequence[Command]) -> Sequence[Any]:
        connection = await self._acquired()
        try:
            return await _sent(connection, commands)
        finally:
            await self._pool.release(connection)

    async def _call_kept(self, commands: Sequence[Command]) -> Sequence[Any]:
        if self._kept is None or _lost(self._kept):
            await self._give_back()
            self._kept = await self._acquired()
        return await _sent(self._kept, commands)

    async def _acquired(self) -> Any:
        try:
            return await self._pool.acquire(timeout=ACQUIRE_TIMEOUT)
        except AWAY:
            # nothing was sent, so nothing was written
            raise postgres_away() from None

    async def _give_back(self) -> None:
        if self._kept is not None:
            kept, self._kept = self._kept, None
            await self._pool.release(kept)

    async def _settle(self, command: Command, answer: asyncio.Future[Appended]) -> None:
        """The connection broke, perhaps at the commit: find out what became of the command."""
        for left in reversed(range(TRIES)):
            try:
                _give(answer, await self._found_out(command))
                return
            except Exception as error:
                if not isinstance(error, (Refusal, *AWAY, *UNDONE)):
                    _log.error("append_not_settled", error=type(error).__name__)
                # a server that is silent or busy is not asked again while the caller waits
                if not left or not isinstance(error, AWAY) or isinstance(error, (TimeoutError, *UNDONE)):
                    break
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1.0))  # noqa: S311 (spread, not secrecy)
        _give(answer, unavailable("outcome_unknown", "The database went away; look before you retry."))

    async def _found_out(self, command: Command) -> Appended | Exception:
        """What became of the command; nothing yet, then it is tried once more.

        The first try may still be running, so a lock that does not come says nothing about it. Any answer
        but `done` was given behind the first try's locks: one more look tells whether that one had won.
        """
        if (found := await self._committed(command)) is not None:
            return found
        try:
            outcome = outcome_of((await self._call([command]))[0])
        except (*AWAY, *UNDONE):
            raise
        except asyncpg.PostgresError as error:
            outcome = refused_by_database(error)
        if isinstance(outcome, Appended):
            return outcome
        return await self._committed(command) or outcome

    async def _committed(self, command: Command) -> Appended | None:
        rows = await fetch(self._pool, _BY_COMMAND, command.command_id)
        return _appended(rows[0]) if rows else None


async def _sent(connection: Any, commands: Sequence[Command]) -> Sequence[Any]:
    rows = [command_row(ordinal, command) for ordinal, command in enumerate(commands, 1)]
    events = [
        (ordinal, event.type, event.schema_version, event.actor, event.request_id, event.data)
        for ordinal, command in enumerate(commands, 1)
        for event in command.events
    ]
    try:
        return await connection.fetch(_APPEND, rows, events)
    except (TimeoutError, asyncio.CancelledError, asyncpg.InternalClientError):
        # the pool would ask the silent server to stop, and wait for its answer
        connection.terminate()
        raise


def _lost(connection: Any) -> bool:
    try:
        return bool(connection.is_closed())
    except asyncpg.InterfaceError:
        # the pool has taken it back
        return True


def command_row(ordinal: int, command: Command) -> tuple[Any, ...]:
    """The command as `ledger.append` takes it."""
    answer = command.answer
    return (
        ordinal,
        command.command_id,
        command.stream_id,
        command.kind,
        command.workspace_id,
        command.expected_version,
        command.now,
        command.body.decode(),
        [".".join(stamp) for stamp in command.stamps],
        command.data_key,
        answer and answer.id,
        answer and answer.request_hash,
        answer and answer.sealed,
        answer and answer.kept_until,
    )


def refused_by_database(error: Exception) -> Refusal:
    """What a caller is told of an error that is the command's own."""
    if getattr(error, "sqlstate", None) == _WORKSPACE_DELETED:
        return not_found()
    if getattr(error, "sqlstate", None) == _TOO_MANY_WORKSPACES:
        return conflict(f"A user makes at most {MAX_WORKSPACES} workspaces.")
    # the class only: a driver's message may quote what people typed
    _log.error("append_refused", error=type(error).__name__, why=str(getattr(error, "sqlstate", "")))
    return Refusal("internal_error", "The write was refused by the database.")


def outcome_of(row: Any) -> Appended | Exception:
    """What `ledger.append` says came of a command."""
    match row["outcome"]:
        case "done":
            return _appended(row)
        case "replay":
            return AlreadyAnswered()
        case "in_progress":
            return AnswerInProgress()
        case _:
            return VersionConflict()


def _appended(row: Any) -> Appended:
    return Appended(row["version"], row["position"], row["at"], Epoch(row["epoch_number"], row["epoch_line"]))


def _give(answer: asyncio.Future[Appended], outcome: Appended | Exception) -> None:
    # the caller may have gone; what was committed stays committed
    if answer.done():
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
