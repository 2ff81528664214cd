"""`Prover` over HTTP: the key service's `POST /v1/prove`, with a service key of scope `keyledger:prove`."""

from __future__ import annotations

import asyncio

import httpx2
import msgspec
from msgspec import Struct

from keyledger.token import Secret
from keyledger.verification.proving import Proven, ProverUnavailable

TIMEOUT = 5.0
OK = 200


class _Answer(Struct, frozen=True):
    proven: bool
    key_id: str = ""
    position: int = 0
    epoch: str = ""


_ANSWER = msgspec.json.Decoder(_Answer)


class HttpProver:
    """Presents tokens to the key service. Neither they nor the service key are shown anywhere."""

    def __init__(self, keys_url: str, service_key: Secret) -> None:
        self._client = httpx2.AsyncClient(
            base_url=keys_url,
            headers={"X-API-Key": service_key.reveal(), "Content-Type": "application/json"},
            timeout=TIMEOUT,
            trust_env=False,
            follow_redirects=False,
        )

    async def prove(self, text: str) -> Proven | None:
        """Whose secret this is, None when nobody's; `ProverUnavailable` for whatever went wrong."""
        try:
            async with asyncio.timeout(TIMEOUT):
                told = await self._client.post("/v1/prove", content=msgspec.json.encode({"key": text}))
        except (httpx2.HTTPError, TimeoutError, OSError) as error:
            # the type only: a driver's message may quote the request
            raise ProverUnavailable(f"no answer: {type(error).__name__}") from None
        if told.status_code != OK:
            raise ProverUnavailable(f"the key service answered {told.status_code}")
        try:
            answer = _ANSWER.decode(told.content)
        except msgspec.MsgspecError:
            raise ProverUnavailable("the answer cannot be read") from None
        return Proven(answer.key_id, answer.position, answer.epoch) if answer.proven else None

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
