"""The `keyledger` command: what it is called with, and how its errors look.

Command modules import what they need when they run: `keyledger up` must not wait for a web framework, nor for
the parser of commands it does not have.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from infra.local.errors import LocalRunError


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. An expected failure is a line on stderr and exit code 1; bad usage is exit code 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _dispatch(words)
        # what is still to be written is written here, where it can fail
        sys.stdout.flush()
        sys.exit(code)
    except BrokenPipeError:
        # `… | head` has read enough; the interpreter would try once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except LocalRunError as error:
        for line in error.details:
            print(f"  | {line}", file=sys.stderr)
        print(f"keyledger: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _dispatch(words: Sequence[str]) -> int:
    if words == ["up"]:
        from services.cli.running import up  # noqa: PLC0415 - the parser takes 0.2 s to import

        return up()
    from services.cli.commands import run  # noqa: PLC0415

    return run(words)


if __name__ == "__main__":
    main()
