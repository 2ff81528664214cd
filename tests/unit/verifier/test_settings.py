"""The verifier's settings: everything that is wrong at once, and no door left open by omission."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyledger.server.settings import SettingsError
from services.verifier.settings import Tls, read_settings


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    key = tmp_path / "key"
    key.write_text("cvtk_live_service\n")
    return {
        "KEYLEDGER_NATS": "nats://verifier:password@127.0.0.1:4222",
        "KEYLEDGER_KEYS_URL": "http://127.0.0.1:8401/",
        "KEYLEDGER_PEPPERS": str(tmp_path),
        "KEYLEDGER_SERVICE_KEY_FILE": str(key),
        "KEYLEDGER_SPOOL": str(tmp_path / "spool"),
        **more,
    }


def test_what_is_not_given_has_its_default(tmp_path: Path) -> None:
    settings = read_settings(environment(tmp_path))
    assert (settings.host, settings.port, settings.prefixes) == ("127.0.0.1", 8402, ("cvtk",))
    assert (settings.max_staleness, settings.held_seconds, settings.trusted_hops) == (300, 900, 1)
    assert settings.client_ip_header is None
    assert settings.keys_url == "http://127.0.0.1:8401"
    assert settings.service_key.reveal() == "cvtk_live_service"


def test_all_missing_names_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as error:
        read_settings({"KEYLEDGER_PORT": "many"})
    for name in ("NATS", "KEYS_URL", "PEPPERS", "SERVICE_KEY_FILE", "SPOOL", "PORT"):
        assert f"KEYLEDGER_{name}" in str(error.value)


def test_beyond_loopback_a_token_is_needed(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="KEYLEDGER_VERIFIER_TOKEN_FILE"):
        read_settings(environment(tmp_path, KEYLEDGER_HOST="0.0.0.0"))
    (tmp_path / "token").write_text("shared")
    token_file = str(tmp_path / "token")
    settings = read_settings(
        environment(tmp_path, KEYLEDGER_HOST="0.0.0.0", KEYLEDGER_VERIFIER_TOKEN_FILE=token_file)
    )
    assert settings.verifier_token is not None
    assert settings.verifier_token.reveal() == "shared"


def test_beyond_loopback_certificates_are_as_good_as_a_token(tmp_path: Path) -> None:
    pair = {"KEYLEDGER_TLS_CERT": "server.pem", "KEYLEDGER_TLS_KEY": "server.key.pem"}
    with pytest.raises(SettingsError, match="KEYLEDGER_TLS_CLIENT_CA"):
        # whom we are does not tell who they are
        read_settings(environment(tmp_path, KEYLEDGER_HOST="0.0.0.0", **pair))
    told = environment(tmp_path, KEYLEDGER_HOST="0.0.0.0", KEYLEDGER_TLS_CLIENT_CA="ca.pem", **pair)
    assert read_settings(told).tls == Tls(Path("server.pem"), Path("server.key.pem"), Path("ca.pem"))
    assert read_settings(environment(tmp_path, **pair)).tls == Tls(Path("server.pem"), Path("server.key.pem"))
    assert read_settings(environment(tmp_path)).tls is None


@pytest.mark.parametrize("given", ["CERT", "KEY", "CLIENT_CA"])
def test_half_of_tls_is_none(tmp_path: Path, given: str) -> None:
    told = environment(tmp_path, **{f"KEYLEDGER_TLS_{given}": "file.pem"})
    with pytest.raises(SettingsError, match="KEYLEDGER_TLS_CERT and KEYLEDGER_TLS_KEY"):
        read_settings(told)


def test_what_the_listener_bears(tmp_path: Path) -> None:
    settings = read_settings(environment(tmp_path))
    told = (settings.drain_seconds, settings.keep_alive_seconds, settings.max_connections)
    assert told == (2, 75, 4096)
    given = {"DRAIN_SECONDS": "0", "KEEP_ALIVE_SECONDS": "400", "MAX_CONNECTIONS": "9"}
    settings = read_settings(
        environment(tmp_path, **{f"KEYLEDGER_{name}": value for name, value in given.items()})
    )
    told = (settings.drain_seconds, settings.keep_alive_seconds, settings.max_connections)
    assert told == (0, 400, 9)
    with pytest.raises(SettingsError, match="KEYLEDGER_MAX_CONNECTIONS"):
        read_settings(environment(tmp_path, KEYLEDGER_MAX_CONNECTIONS="0"))


def test_prefixes_of_today_and_before(tmp_path: Path) -> None:
    told = environment(tmp_path, KEYLEDGER_TOKEN_PREFIX="newp", KEYLEDGER_TOKEN_PREFIXES_OLD="cvtk, older")
    assert read_settings(told).prefixes == ("newp", "cvtk", "older")
    with pytest.raises(SettingsError, match="PREFIX"):
        read_settings(environment(tmp_path, KEYLEDGER_TOKEN_PREFIX="No"))


def test_no_secret_is_in_the_repr(tmp_path: Path) -> None:
    shown = repr(read_settings(environment(tmp_path)))
    assert "password" not in shown
    assert "cvtk_live_service" not in shown
