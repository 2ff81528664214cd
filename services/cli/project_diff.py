"""A verifier's projection held against a fresh fold: first the whole, then one bucket, then its first key."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import httpx2
import msgspec

from infra.local.errors import LocalRunError
from keyledger.events import Epoch
from keyledger.token import Secret
from keyledger.verification.feed import HttpFeed
from keyledger.verification.ports import FeedUnavailable
from keyledger.verification.state_digest import (
    BucketDigests,
    StateDigest,
    bucket_digests,
    digest_of,
    first_difference,
)
from keyledger.verification.store import Fit, MemoryStore
from keyledger.wire import Followed, Page
from services.cli.places import Places
from services.cli.progress import Progress

PAGE = 10_000
TRIES = 3
"""A workspace that is deleted between the two readings looks like a difference once, and not again."""
DIGEST_TIMEOUT = 120.0
OK = 200
_FOLLOWED = msgspec.msgpack.Decoder(Followed)
T = TypeVar("T", StateDigest, BucketDigests)


class Pages(Protocol):
    """The log, opened, page by page."""

    async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
        """Records after a position; or `FeedUnavailable`."""
        ...


class AskedVerifier:
    """A verifier's digests over HTTP."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def ask(self, kind: type[T], bucket: int | None = None) -> T:
        """The digest of everything, or those of a bucket's records."""
        query = {} if bucket is None else {"bucket": bucket}
        try:
            answer = await self._http.get("/v1/projection/digest", params=query)
        except httpx2.HTTPError as error:
            raise LocalRunError(
                f"the verifier does not answer at {self._http.base_url}: {type(error).__name__}"
            ) from None
        if answer.status_code != OK:
            raise LocalRunError(f"the verifier answers {answer.status_code}: {answer.text[:200]}")
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.MsgspecError:
            raise LocalRunError("the verifier's answer is no digest") from None


class FreshFold:
    """A fold of the log that is taken to whatever position is asked for, never back."""

    def __init__(self, log: Pages) -> None:
        self._log = log
        self.store = MemoryStore()

    async def until(self, position: int, epoch: str, told: Progress) -> None:
        """Fold up to exactly this position of this epoch."""
        while self.store.position < position or self.store.epoch is None:
            page, records = await self._log.page(
                self.store.position, min(PAGE, position - self.store.position) or 1
            )
            ours = Epoch(page.epoch_number, page.epoch_line)
            if ours.text != epoch:
                raise LocalRunError(f"the verifier follows epoch {epoch}, the log is at {ours.text}")
            if self.store.epoch is None:
                self.store.begin(ours)
            if not records and self.store.position < position:
                raise LocalRunError(
                    f"the verifier is at position {position}, the log ends at {self.store.position}"
                )
            for record in records:
                event = _FOLLOWED.decode(record)
                if event.position > position:
                    break
                if self.store.fit(event) is not Fit.NEXT:
                    raise LocalRunError(f"the log's chain is broken at position {event.position}")
                self.store.apply(event)
            told(self.store.position)


async def compare(
    log: AbstractAsyncContextManager[Pages], verifier: AbstractAsyncContextManager[AskedVerifier]
) -> int:
    """Compare, tell, and answer the exit code: 1 when something differs, by a LocalRunError that names it."""
    try:
        async with log as pages, verifier as asked:
            with Progress("events folded") as told:
                return await _compare(FreshFold(pages), asked, told)
    except FeedUnavailable as error:
        raise LocalRunError(f"the log cannot be read: {error}") from None


async def _compare(fold: FreshFold, asked: AskedVerifier, told: Progress) -> int:
    position = 0
    for _ in range(TRIES):
        found = await asked.ask(StateDigest)
        await fold.until(found.position, found.epoch, told)
        with fold.store.freeze() as frozen:
            expected = await digest_of(frozen)
        position = found.position
        if found == expected:
            where = f"position {found.position} of epoch {found.epoch}"
            print(f"equal: {found.records} keys and workspaces at {where}, digest {found.digest}")
            return 0
        pairs = zip(expected.buckets, found.buckets, strict=False)
        bucket = next((at for at, (ours, theirs) in enumerate(pairs) if ours != theirs), 0)
        theirs = await asked.ask(BucketDigests, bucket)
        await fold.until(theirs.position, theirs.epoch, told)
        with fold.store.freeze() as frozen:
            ours = await bucket_digests(frozen, bucket)
        if (different := first_difference(ours, theirs)) is not None:
            raise LocalRunError(_named(different, ours, theirs))
    raise LocalRunError(f"the digests differ at position {position}, and no record does: try again")


def _named(different: str, ours: BucketDigests, theirs: BucketDigests) -> str:
    where = f"DIFFERENCE at position {theirs.position}: {different}"
    if different not in theirs.records:
        return f"{where} is in the log, and the verifier does not have it"
    if different not in ours.records:
        return f"{where} is in the verifier, and the log does not have it"
    return f"{where} is not what the log adds up to"


@asynccontextmanager
async def verifier_of(places: Places, url: str | None) -> AsyncGenerator[AskedVerifier]:
    """The verifier that was named, or the local run's."""
    token = places.secret_file("KEYLEDGER_VERIFIER_TOKEN_FILE", "verifier.token")
    headers = {} if token is None else {"X-Verifier-Token": token.read_text().strip()}
    address = url or os.environ.get("KEYLEDGER_VERIFIER_URL") or places.local.url("verifier")
    async with httpx2.AsyncClient(
        base_url=address, headers=headers, timeout=DIGEST_TIMEOUT, trust_env=False
    ) as http:
        yield AskedVerifier(http)


@asynccontextmanager
async def log_of(places: Places, url: str | None, dsn: str | None) -> AsyncGenerator[Pages]:
    """The log: of the database that was named, or of a key service's feed."""
    if dsn is not None:
        async with _database(places, dsn) as pages:
            yield pages
        return
    key = places.secret_file("KEYLEDGER_SERVICE_KEY_FILE", str(Path("secrets") / "verifier"))
    if key is None:
        raise LocalRunError("how is the feed to be read? set KEYLEDGER_SERVICE_KEY_FILE, or pass --dsn")
    address = url or os.environ.get("KEYLEDGER_KEYS_URL") or places.local.url("keys")
    feed = HttpFeed(address, Secret(key.read_text().strip()))
    try:
        yield feed
    finally:
        await feed.close()


@asynccontextmanager
async def _database(places: Places, dsn: str) -> AsyncGenerator[Pages]:
    from keyledger.server.postgres import close_pool, open_pool  # noqa: PLC0415
    from keyledger.wire import unframe  # noqa: PLC0415
    from services.cli.audit import reading, sealer  # noqa: PLC0415
    from services.keys.adapters.feed import KeyLogSource  # noqa: PLC0415

    seal = places.secret_file("KEYLEDGER_SEAL_SECRET_FILE", "seal.secret", given_dsn=True)
    if seal is None:
        raise LocalRunError("the log is sealed; set KEYLEDGER_SEAL_SECRET_FILE")

    class Opened:
        def __init__(self, source: KeyLogSource) -> None:
            self._source = source

        async def page(self, after: int, limit: int) -> tuple[Page, list[memoryview]]:
            head, *records = unframe(await self._source.page(after, limit))
            return msgspec.msgpack.decode(head, type=Page), records

    async with reading(dsn):
        pool = await open_pool(dsn, name="diff", most=2)
        try:
            yield Opened(KeyLogSource(pool, sealer(seal)))
        finally:
            await close_pool(pool)
