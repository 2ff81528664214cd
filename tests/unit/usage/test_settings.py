"""Settings: everything wrong at once, and nothing secret shown."""

from pathlib import Path

import pytest

from keyledger.server.settings import SettingsError
from services.usage.settings import read_settings


def test_all_that_is_missing_is_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings({"KEYLEDGER_PORT": "x", "KEYLEDGER_KEYS_URL": "ftp://x"})
    for name in ("PORT", "POSTGRES", "NATS", "KEYS_URL", "SERVICE_KEY_FILE"):
        assert f"KEYLEDGER_{name}" in str(caught.value)


def test_secrets_are_read_and_not_shown(tmp_path: Path) -> None:
    key = tmp_path / "usage"
    key.write_text("cvtk_live_own\n")
    settings = read_settings({
        "KEYLEDGER_POSTGRES": "postgresql://u:pw@h/d",
        "KEYLEDGER_NATS": "nats://u:pw@h",
        "KEYLEDGER_KEYS_URL": "http://keys.test/",
        "KEYLEDGER_SERVICE_KEY_FILE": str(key),
    })  # fmt: skip
    assert (settings.port, settings.keys_url) == (8403, "http://keys.test")
    assert settings.service_key.reveal() == "cvtk_live_own"
    assert "pw" not in repr(settings)
    assert "cvtk" not in repr(settings)
