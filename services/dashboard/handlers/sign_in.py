"""Signing in: with the OpenID provider, or by a one-time link on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec
from msgspec import Struct

from keyledger.clock import SECOND, Clock
from keyledger.server.seal import SealBroken, Sealer
from keyledger.token import Secret
from services.dashboard.domain import login_link, sign_in
from services.dashboard.domain.sign_in import Attempt, Identity, SignInRefused
from services.dashboard.handlers.sessions import SessionKeeper, Tokens
from services.dashboard.ports import IdentityProvider, People, Spent

LOCAL_USER = Identity("urn:keyledger:local", "local", "Local user", None)
_PURPOSE = "keyledger sign-in"
_PLACE = b"attempt"


class Begun(Struct, frozen=True):
    """Where the browser goes, and what it keeps meanwhile."""

    url: str
    kept: Secret


class SignIn:
    """Sign-in with a provider: one attempt a browser, bound to it by what only it keeps, good once."""

    def __init__(
        self,
        provider: IdentityProvider,
        people: People,
        spent: Spent,
        keeper: SessionKeeper,
        sealer: Sealer,
        *,
        clock: Clock,
        redirect_uri: str,
        new_id: Callable[[str], str],
        new_secret: Callable[[], str],
    ) -> None:
        self._provider = provider
        self._people = people
        self._spent = spent
        self._keeper = keeper
        self._sealer = sealer
        self._clock = clock
        self._redirect_uri = redirect_uri
        self._new_id = new_id
        self._new_secret = new_secret

    async def begin(self, next_path: str, *, choose: bool = False) -> Begun:
        """The provider's address for a new attempt; `choose` has it ask who it is, signed in there or not."""
        provider = await self._provider.describe()
        attempt = Attempt(
            state=self._new_secret(),
            nonce=self._new_secret(),
            verifier=self._new_secret() + self._new_secret(),
            next=next_path,
            expires_at=self._clock.now() + sign_in.ATTEMPT,
        )
        sealed = self._sealer.seal_answer(_PURPOSE, msgspec.json.encode(attempt), _PLACE)
        url = sign_in.authorization_url(provider, attempt, self._redirect_uri, choose=choose)
        return Begun(url, Secret(sealed.hex()))

    async def finish(
        self, answer: Mapping[str, str], kept: Secret | None, presented: Secret | None
    ) -> tuple[Tokens, str]:
        """The new session's tokens, and where to go. Raises `SignInRefused`.

        `kept` is what the browser kept, `presented` the refresh token of the session it had, if any.
        """
        attempt = self._attempt(kept)
        provider = await self._provider.describe()
        now = self._clock.now()
        code = sign_in.code_of(answer, attempt, provider, now)
        if not await self._spent.spend(_digest(attempt.state), attempt.expires_at, now):
            raise SignInRefused("replayed")
        token = await self._provider.redeem(code, attempt.verifier, self._redirect_uri)
        identity = sign_in.identity(token, provider, attempt.nonce, self._clock.now())
        arrival = await self._people.arrive(identity, self._new_id("user"), self._clock.now())
        tokens = await self._keeper.begin(arrival, first_workspace=False, presented=presented)
        return tokens, attempt.next

    def _attempt(self, kept: Secret | None) -> Attempt:
        if kept is None:
            raise SignInRefused("other_browser")
        try:
            plain = self._sealer.open_answer(_PURPOSE, bytes.fromhex(kept.reveal()), _PLACE)
            return msgspec.json.decode(plain, type=Attempt)
        except (SealBroken, ValueError, msgspec.MsgspecError):
            raise SignInRefused("other_browser") from None


class LinkSignIn:
    """Sign-in by a one-time link: whoever can read this machine's secret is its user."""

    def __init__(
        self,
        people: People,
        spent: Spent,
        keeper: SessionKeeper,
        clock: Clock,
        *,
        secret: Secret,
        new_id: Callable[[str], str],
    ) -> None:
        self._people = people
        self._spent = spent
        self._keeper = keeper
        self._clock = clock
        self._secret = secret
        self._new_id = new_id

    async def finish(self, token: str, presented: Secret | None) -> Tokens:
        """The new session's tokens; `SignInRefused` when the link is wrong, over, or was used."""
        now = self._clock.now()
        until = login_link.expiry(self._secret, token, now // SECOND)
        if until is None:
            raise SignInRefused("link")
        if not await self._spent.spend(_digest(token), until * SECOND, now):
            raise SignInRefused("link_used")
        arrival = await self._people.arrive(LOCAL_USER, self._new_id("user"), now)
        return await self._keeper.begin(arrival, first_workspace=True, presented=presented)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
