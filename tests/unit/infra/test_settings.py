"""What the environment may say about the local run."""

from pathlib import Path

import pytest

from infra.local.errors import LocalRunError
from infra.local.settings import read_settings


def test_an_empty_environment_is_the_documented_run() -> None:
    settings = read_settings({})
    assert settings.url("keys") == "http://127.0.0.1:8401"
    assert [settings.port(name) for name in ("dashboard", "verifier", "usage", "contacts")] == [
        8400,
        8402,
        8403,
        8404,
    ]
    assert settings.home.name == ".keyledger"
    assert (settings.home.parent / "pyproject.toml").exists()


def test_the_base_moves_every_port() -> None:
    settings = read_settings({"KEYLEDGER_PORT_BASE": "9000"})
    assert settings.url("contacts") == "http://127.0.0.1:9004"
    assert (settings.port("postgres"), settings.port("nats")) == (9032, 9022)


@pytest.mark.parametrize("base", ["eighty", "80", "-1", "65535", "8400.5", "٨٤٠٠"])
def test_a_base_that_cannot_be_is_refused_by_name(base: str) -> None:
    with pytest.raises(LocalRunError, match="KEYLEDGER_PORT_BASE"):
        read_settings({"KEYLEDGER_PORT_BASE": base})


def test_a_relative_home_is_made_absolute() -> None:
    assert read_settings({"KEYLEDGER_HOME": "here"}).home == Path.cwd() / "here"


@pytest.mark.parametrize(
    ("host", "url", "loopback"),
    [
        ("0.0.0.0", "http://127.0.0.1:8401", "127.0.0.1"),
        ("::", "http://[::1]:8401", "127.0.0.1"),
        ("::1", "http://[::1]:8401", "::1"),
        ("127.0.0.2", "http://127.0.0.2:8401", "127.0.0.2"),
        ("localhost", "http://localhost:8401", "127.0.0.1"),
        ("192.0.2.1", "http://192.0.2.1:8401", "127.0.0.1"),
    ],
)
def test_the_servers_stay_on_loopback_wherever_the_services_listen(
    host: str, url: str, loopback: str
) -> None:
    settings = read_settings({"KEYLEDGER_HOST": host})
    assert (settings.url("keys"), settings.loopback) == (url, loopback)


def test_a_password_in_a_dsn_is_not_shown() -> None:
    settings = read_settings(
        {"KEYLEDGER_POSTGRES": "postgresql://u:hush@h/d", "KEYLEDGER_NATS": "nats://u:hush@h"}
    )
    assert "hush" not in repr(settings)
