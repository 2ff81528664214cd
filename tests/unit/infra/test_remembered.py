"""Where a run is, is known to who looks at it later, unless they say otherwise."""

from pathlib import Path

import pytest

from infra.local.errors import LocalRunError
from infra.local.home import Home
from infra.local.remembered import FILE, remember, settings_of_run
from infra.local.settings import read_settings

TOLD = {
    "KEYLEDGER_HOST": "127.0.0.2",
    "KEYLEDGER_PORT_BASE": "9000",
    "KEYLEDGER_PUBLIC_URL": "https://keys.example",
    "KEYLEDGER_OIDC_ISSUER": "https://id.example",
    "KEYLEDGER_OIDC_CLIENT_SECRET_FILE": "hush-file",
    "KEYLEDGER_POSTGRES": "postgresql://u:hush@h/d",
    "KEYLEDGER_NATS": "nats://u:hush@h",
}


def ran(home: Path, **told: str) -> None:
    remember(read_settings({"KEYLEDGER_HOME": str(home), **told}), Home(home))


def test_what_a_run_was_told_holds_for_who_is_not_told(tmp_path: Path) -> None:
    ran(tmp_path, **TOLD)
    seen = settings_of_run({"KEYLEDGER_HOME": str(tmp_path), "KEYLEDGER_HOST": ""})
    assert (seen.host, seen.port_base, seen.public_url) == ("127.0.0.2", 9000, "https://keys.example")
    assert (seen.has_provider, seen.postgres, seen.nats) == (True, None, None)
    ran(tmp_path)
    seen = settings_of_run({"KEYLEDGER_HOME": str(tmp_path)})
    assert (seen.public_url, seen.has_provider) == ("http://127.0.0.1:8400", False)


def test_the_environment_has_the_last_word(tmp_path: Path) -> None:
    ran(tmp_path, **TOLD)
    own = {
        "KEYLEDGER_PORT_BASE": "9100",
        "KEYLEDGER_HOST": "127.0.0.3",
        "KEYLEDGER_PUBLIC_URL": "https://other",
    }
    seen = settings_of_run({"KEYLEDGER_HOME": str(tmp_path), **own})
    assert (seen.host, seen.port_base, seen.public_url) == ("127.0.0.3", 9100, "https://other")


def test_it_is_the_owners_alone_and_holds_no_secret(tmp_path: Path) -> None:
    ran(tmp_path, **TOLD)
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert "hush" not in (tmp_path / FILE).read_text()


def test_without_a_run_it_is_as_the_environment_says(tmp_path: Path) -> None:
    environ = {"KEYLEDGER_HOME": str(tmp_path / "none"), "KEYLEDGER_OIDC_ISSUER": "https://id.example"}
    assert settings_of_run(environ) == read_settings(environ)


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"'])
def test_what_is_no_memory_of_a_run_is_told_in_a_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(LocalRunError, match=FILE):
        settings_of_run({"KEYLEDGER_HOME": str(tmp_path)})
