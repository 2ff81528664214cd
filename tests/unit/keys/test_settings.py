"""The key service's settings for users: without an issuer there are none."""

from typing import Any

import pytest

from keyledger.server.settings import SettingsError
from services.keys.settings import Settings, read

NEEDED = {
    "KEYLEDGER_POSTGRES": "postgresql://db/keyledger",
    "KEYLEDGER_NATS": "nats://bus",
    "KEYLEDGER_PEPPERS": "peppers",
    "KEYLEDGER_SEAL_SECRET_FILE": "seal",
}


def settings(**named: Any) -> Settings:
    return read(NEEDED | named)


def test_without_an_issuer_no_user_is_known() -> None:
    assert (settings().jwt_issuer, settings().jwks_url) == ("", "")


def test_the_keys_are_where_an_issuer_publishes_them_unless_told_otherwise() -> None:
    found = settings(KEYLEDGER_JWT_ISSUER="https://keys.example.com/")
    assert found.jwt_issuer == "https://keys.example.com"
    assert found.jwks_url == "https://keys.example.com/.well-known/jwks.json"
    found = settings(
        KEYLEDGER_JWT_ISSUER="https://keys.example.com", KEYLEDGER_JWKS_URL="http://inside:8400/jwks"
    )
    assert (found.jwt_issuer, found.jwks_url) == ("https://keys.example.com", "http://inside:8400/jwks")


@pytest.mark.parametrize("name", ["KEYLEDGER_JWT_ISSUER", "KEYLEDGER_JWKS_URL"])
def test_an_address_is_an_http_address(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        settings(**{"KEYLEDGER_JWT_ISSUER": "https://a.example.com", name: "file:///keys.json"})
