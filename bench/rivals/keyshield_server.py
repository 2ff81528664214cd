"""keyshield behind its own Litestar router: the cached service, keys in memory. Runs in its own environment.

`KEYSHIELD_DELAY=0` takes away the random wait (0.1 to 0.3 s) that it adds to every answer. The tokens it
made are written to the file that `TOKENS` names once it is up.
"""

import asyncio
import os
from pathlib import Path

from keyshield.hasher.argon2 import Argon2ApiKeyHasher
from keyshield.litestar_api import create_api_keys_router
from keyshield.repositories.in_memory import InMemoryApiKeyRepository
from keyshield.services.cached import CachedApiKeyService
from litestar import Litestar

KEYS = 16
"""Each costs an Argon2id of the library's default strength once; then they are in the cache."""

_wait = {"min_delay": 0.0, "max_delay": 0.0} if os.environ.get("KEYSHIELD_DELAY") == "0" else {}
_service = CachedApiKeyService(
    InMemoryApiKeyRepository(), Argon2ApiKeyHasher(pepper="p" * 32), cache_ttl=3600, **_wait
)


async def provide() -> CachedApiKeyService:
    """The one service of this process."""
    return _service


async def fill() -> None:
    """Make the keys, and verify each once, so that the cache has all of them."""
    tokens = [(await _service.create(name=f"k{n}", scopes=["contacts:read"]))[1] for n in range(KEYS)]
    await asyncio.gather(*(_service.verify_key(token, ["contacts:read"]) for token in tokens))
    made = Path(os.environ["TOKENS"])
    partial = made.with_suffix(".part")
    partial.write_text("\n".join(tokens))
    partial.rename(made)


app = Litestar([create_api_keys_router(provide)], on_startup=[fill], logging_config=None, openapi_config=None)
