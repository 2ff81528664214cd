"""The heart: a projection of every key, and the verdict on a presented token.

`Verifier` is loaded when it is asked for: what is light here needs neither NATS nor LMDB.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyledger.verification.verifier import Verifier

__all__ = ["Verifier"]

_EMBEDDED = frozenset({"nats", "lmdb"})


def __getattr__(name: str) -> object:
    if name != "Verifier":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from keyledger.verification.verifier import Verifier  # noqa: PLC0415 (the others need not wait for it)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EMBEDDED:
            raise
        raise ImportError(
            f"keyledger.verification.Verifier needs {error.name}: install keyledger[embedded]",
            name=error.name,
        ) from error
    return Verifier
