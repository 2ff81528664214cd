"""The dashboard's settings: every bad one is refused by its name, and no secret is shown."""

from pathlib import Path

import pytest

from keyledger.server.settings import SettingsError
from services.dashboard.settings import read_settings


@pytest.fixture
def good(tmp_path: Path) -> dict[str, str]:
    """What is needed at least."""
    (tmp_path / "seal").write_text("ab" * 32)
    (tmp_path / "client").write_text("the-client-secret")
    return {
        "KEYLEDGER_POSTGRES": "postgresql://keyledger_dashboard:hidden@127.0.0.1/x",
        "KEYLEDGER_SEAL_SECRET_FILE": str(tmp_path / "seal"),
    }


def provider(good: dict[str, str]) -> dict[str, str]:
    """With a provider besides."""
    folder = Path(good["KEYLEDGER_SEAL_SECRET_FILE"]).parent
    return good | {
        "KEYLEDGER_OIDC_ISSUER": "https://accounts.google.com",
        "KEYLEDGER_OIDC_CLIENT_ID": "us",
        "KEYLEDGER_OIDC_CLIENT_SECRET_FILE": str(folder / "client"),
        "KEYLEDGER_OIDC_HOSTED_DOMAIN": "Example.org",
    }


def test_a_local_run_needs_little(good: dict[str, str]) -> None:
    settings = read_settings(good)
    assert (settings.host, settings.port, settings.public_url) == ("127.0.0.1", 8400, "http://127.0.0.1:8400")
    assert settings.openid is None
    assert settings.is_local


def test_a_provider_is_named(good: dict[str, str]) -> None:
    settings = read_settings(
        provider(good) | {"KEYLEDGER_HOST": "0.0.0.0", "KEYLEDGER_PUBLIC_URL": "https://keys.example/"}
    )
    assert settings.openid is not None
    assert (settings.openid.called, settings.openid.hosted_domain) == ("Google", "example.org")
    assert (settings.public_url, settings.is_local) == ("https://keys.example", False)
    assert "the-client-secret" not in repr(settings)
    assert "hidden" not in repr(settings)
    assert "abab" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEYLEDGER_POSTGRES", ""),
        ("KEYLEDGER_SEAL_SECRET_FILE", ""),
        ("KEYLEDGER_PORT", "many"),
        ("KEYLEDGER_PORT", "0"),
        ("KEYLEDGER_PORT", "70000"),
        ("KEYLEDGER_PUBLIC_URL", "http://keys.example"),
        ("KEYLEDGER_PUBLIC_URL", "https://keys.example/path"),
        ("KEYLEDGER_PUBLIC_URL", "https://me@keys.example"),
        ("KEYLEDGER_PUBLIC_URL", "keys.example"),
        ("KEYLEDGER_PUBLIC_URL", "https://keys.example:port"),
        ("KEYLEDGER_KEYS_URL", "127.0.0.1"),
        ("KEYLEDGER_USAGE_URL", "ftp://x"),
        ("KEYLEDGER_VERIFIER_URL", "x"),
        ("KEYLEDGER_OIDC_ISSUER", "http://accounts.google.com"),
        ("KEYLEDGER_OIDC_ISSUER", "https://accounts.google.com?x=1"),
        ("KEYLEDGER_OIDC_CLIENT_ID", ""),
        ("KEYLEDGER_OIDC_CLIENT_SECRET_FILE", "/nowhere/secret"),
        ("KEYLEDGER_OIDC_HOSTED_DOMAIN", "not a domain"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(good: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=name) as refused:
        read_settings(provider(good) | {name: value})
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("name", ["CLIENT_ID", "CLIENT_SECRET_FILE", "HOSTED_DOMAIN"])
def test_a_part_of_a_provider_is_not_one(good: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsError, match=f"KEYLEDGER_OIDC_{name}"):
        read_settings(good | {f"KEYLEDGER_OIDC_{name}": "x"})


def test_beyond_loopback_there_is_a_provider(good: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="KEYLEDGER_OIDC_ISSUER"):
        read_settings(good | {"KEYLEDGER_HOST": "0.0.0.0", "KEYLEDGER_PUBLIC_URL": "https://keys.example"})


@pytest.mark.parametrize("content", ["short", "ab" * 31, "xy" * 32])
def test_a_seal_secret_is_32_bytes_of_hex(good: dict[str, str], content: str) -> None:
    Path(good["KEYLEDGER_SEAL_SECRET_FILE"]).write_text(content)
    with pytest.raises(SettingsError, match="KEYLEDGER_SEAL_SECRET_FILE") as refused:
        read_settings(good)
    assert content not in str(refused.value)
