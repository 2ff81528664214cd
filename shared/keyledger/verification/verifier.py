"""A whole verifier in one's own process: the key service, the broker and the peppers in, verdicts out.

The verifier service stands on the same class. It needs the extra `embedded`. It is operator code: it holds
the peppers and every workspace's digests, and is not for customers.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from keyledger.clock import Clock, SystemClock
from keyledger.digest import Peppers, load_peppers
from keyledger.token import DEFAULT_PREFIX, Secret, is_prefix
from keyledger.verification.board_follower import BoardFollower
from keyledger.verification.bus import NatsBus
from keyledger.verification.feed import HttpFeed
from keyledger.verification.granted_limits import GrantedLimits
from keyledger.verification.http_prover import HttpProver
from keyledger.verification.incarnation import Incarnation
from keyledger.verification.judge import MAX_STALENESS, Judge
from keyledger.verification.limits import Limits
from keyledger.verification.opening import open_records, open_store
from keyledger.verification.pepper_watch import PepperWatch
from keyledger.verification.ports import Following
from keyledger.verification.projector import Projector
from keyledger.verification.spool import Spool
from keyledger.verification.store import Records
from keyledger.verification.store_folder import STORE
from keyledger.verification.uses import Uses

HELD_SECONDS = 900.0
"""Seconds for which a key service that cannot write keeps the state fresh."""


class Verifier(Judge):
    """May the holder of this token do this, now? Asked in this process, answered from memory.

        async with Verifier(
            keys_url="http://127.0.0.1:8401", service_key=key, nats="nats://127.0.0.1:8422",
            peppers="peppers", folder="state",
        ) as verifier:
            await verifier.ready()
            verdict = verifier.check(token, scopes=["contacts:read"])

    Freshness, limits and the report of uses are those of the verifier service. Neither the key service nor
    the broker needs to be there at the start, and what happens without them later `max_staleness` decides.
    Limits are shared with every other verifier, by grants of the usage service. `check` spends what is held
    and never waits; `verify` waits for more where that is spent faster than it comes.

    One is entered once, and belongs to the event loop that entered it: `check`, which never waits, is for
    that loop's thread. Another thread asks `asyncio.run_coroutine_threadsafe(verifier.verify(token), loop)`.
    """

    def __init__(
        self,
        *,
        keys_url: str,
        service_key: str | Secret,
        nats: str,
        peppers: str | Path | Peppers,
        folder: str | Path,
        prove_key: str | Secret | None = None,
        prefixes: Sequence[str] = (DEFAULT_PREFIX,),
        max_staleness: float = MAX_STALENESS,
        held_seconds: float = HELD_SECONDS,
        spool: str | Path | None = None,
        clock: Clock | None = None,
        follows: bool = True,
        limits: Limits | None = None,
        index: int = 0,
    ) -> None:
        """Nothing is asked of anybody yet. A `ValueError` names the argument that cannot be used;
        `PepperError` and `OSError` name the file.

        `service_key`: a key of scope `keyledger:feed:read`. `nats`: one server or several of one cluster,
        with commas. `peppers`: a folder of `<id>.pepper` files, looked at each second, or what was read from
        one. `folder`: of this host and this verifier alone, for what outlives the process; uses that are not
        recorded yet lie in `spool`, which is a folder in it unless named. `prove_key`: a key of scope
        `keyledger:prove`, with which the key service proves what no pepper here can tell. `prefixes`: the
        token prefix of today and the old ones. `max_staleness`: how many seconds old the state may be;
        `held_seconds`: for how long a key service that cannot write keeps it fresh. Only one process of a
        folder `follows`; others may share what it keeps there, each with a `spool` and an `index` of its own.
        `limits`: what counts them instead; `FixedWindow` does in this process alone.
        """
        keys_url, service_key = _url(keys_url, "keys_url"), _secret(service_key, "service_key")
        asks = None if prove_key is None else _secret(prove_key, "prove_key")
        accepted = _prefixes(prefixes)
        max_staleness = _seconds(max_staleness, "max_staleness")
        held_seconds = _seconds(held_seconds, "held_seconds")
        state = _path(folder, "folder")
        kept = Spool(state / "spool" if spool is None else _path(spool, "spool"))
        held = peppers if isinstance(peppers, Peppers) else load_peppers(_path(peppers, "peppers"))
        clock = clock or SystemClock()
        boot = secrets.token_hex(16)
        self._bus = _bus(nats)
        self._feed = HttpFeed(keys_url, service_key)
        self._prover = None if asks is None else HttpProver(keys_url, asks)
        self._incarnation: Incarnation | None = None
        if limits is None:
            self._incarnation = Incarnation(state, boot, index=index)
            limits = GrantedLimits(self._bus, clock, verifier=boot, replaces=self._incarnation.replaces)
        store, follower = self._followed(
            state / STORE,
            keys_url,
            clock,
            held,
            name=f"verifier-{boot[:12]}",
            staleness=(max_staleness, held_seconds),
            follows=follows,
        )
        super().__init__(
            store,
            follower,
            peppers=held,
            limits=limits,
            uses=Uses(kept, self._bus, boot=boot),
            clock=clock,
            prefixes=accepted,
            max_staleness=max_staleness,
            prover=self._prover,
        )
        watched = None if isinstance(peppers, Peppers) else Path(peppers)
        self._watch = None if watched is None else PepperWatch(watched, held, lambda: follower.pepper)
        self._watching: asyncio.Task[None] | None = None

    def _followed(
        self,
        folder: Path,
        keys_url: str,
        clock: Clock,
        peppers: Peppers,
        *,
        name: str,
        staleness: tuple[float, float],
        follows: bool,
    ) -> tuple[Records, Following]:
        """Where the projection lives, and who keeps it: this process or another."""
        most, held = staleness
        if not follows:
            records = open_records(folder, steady=clock.steady)
            return records, BoardFollower(records, clock, held_seconds=held)
        place = open_store(folder, follows=keys_url, steady=clock.steady)
        projector = Projector(
            place,
            self._feed,
            self._bus,
            clock,
            name=name,
            held_seconds=held,
            peppers=lambda: peppers.names,
            snapshots=self._feed,
            max_staleness=most,
        )
        return place.store, projector

    def __repr__(self) -> str:
        return f"<Verifier {self.state} at {self.store.position}>"

    async def start(self) -> None:
        """As `async with`; `stop` ends it."""
        try:
            await self._bus.open()
            if self._watch is not None:
                self._watching = asyncio.create_task(self._watch.run(), name="watch the peppers")
            await super().start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop following, get the last uses out within a few seconds, close every connection."""
        try:
            await super().stop()
        finally:
            if self._watching is not None:
                self._watching.cancel()
                await asyncio.gather(self._watching, return_exceptions=True)
            if self._incarnation is not None:
                self._incarnation.release()
            if self._prover is not None:
                await self._prover.close()
            await self._bus.close()
            await self._feed.close()


def _bus(nats: str) -> NatsBus:
    try:
        return NatsBus(nats, name="verifier", inbox_prefix="_INBOX_verifier")
    except (ValueError, AttributeError) as error:
        # the URL may hold a password: it is not repeated
        raise ValueError(f"nats: {error}" if isinstance(error, ValueError) else "nats: not a URL") from None


def _url(text: str, name: str) -> str:
    try:
        parts = urlsplit(text)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except (ValueError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise ValueError(f"{name}: not an http:// or https:// URL") from None
    return text


def _secret(given: str | Secret, name: str) -> Secret:
    secret = given if isinstance(given, Secret) else Secret(given)
    text: object = secret.reveal()
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable():
        raise ValueError(f"{name}: not a key")
    return secret


def _path(given: str | Path, name: str) -> Path:
    if not isinstance(given, str | Path) or not str(given):
        raise ValueError(f"{name}: not a folder")
    return Path(given)


def _prefixes(given: Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str) or not given or not all(is_prefix(prefix) for prefix in given):
        raise ValueError("prefixes: not a list of [a-z][a-z0-9]{1,15}")
    return tuple(given)


def _seconds(given: float, name: str) -> float:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 <= given < math.inf:
        raise ValueError(f"{name}: not a number of seconds")
    return given
