"""Settings come from the environment, once, at start; this is the only place that reads it.

A `Reader` collects every missing or unreadable name before it complains, so that an operator mends a
deployment in one go. Secrets are given as files (`…_FILE`), never as values.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit


class SettingsError(Exception):
    """The environment is not usable; the message lists every name that is missing or wrong, never a value."""


def read_environment() -> Mapping[str, str]:
    """The process's environment as it is now."""
    return dict(os.environ)


class Reader:
    """Reads named settings from a mapping and remembers what is wrong until `finish`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._wrong: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        """The setting as it stands; required when there is no default."""
        value = self._environment.get(name, "").strip()
        if value:
            return value
        if default is None:
            self._wrong.append(f"{name} is missing")
            return ""
        return default

    def integer(self, name: str, default: int | None = None, *, least: int = 0) -> int:
        """A whole number of at least `least`."""
        text = self.text(name, None if default is None else str(default))
        try:
            value = int(text)
        except ValueError:
            if text:
                self._wrong.append(f"{name} is not a whole number")
            return least
        if value < least:
            self._wrong.append(f"{name} is below {least}")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A number of seconds or the like, not negative."""
        text = self.text(name, None if default is None else str(default))
        try:
            value = float(text)
        except ValueError:
            if text:
                self._wrong.append(f"{name} is not a number")
            return 0.0
        if not 0 <= value < float("inf"):
            self._wrong.append(f"{name} is negative or not finite")
        return value

    def path(self, name: str, default: str | None = None) -> Path:
        """A path; whether something is there is for its user to say."""
        return Path(self.text(name, default))

    def url(self, name: str, default: str | None = None) -> str:
        """An http(s) address without a trailing slash."""
        text = self.text(name, default).rstrip("/")
        if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
            self._wrong.append(f"{name} is not an http address")
        return text

    def reject(self, why: str) -> None:
        """Remember what a service's own rules say is wrong; `why` begins with the setting's name."""
        self._wrong.append(why)

    def finish(self) -> None:
        """Raise `SettingsError` if anything was missing or wrong."""
        if self._wrong:
            raise SettingsError("; ".join(self._wrong))


def read_secret(path: Path) -> str:
    """The text of a secret file, stripped; `SettingsError` names the file when it cannot be read."""
    try:
        text = path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"the secret file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"the secret file {path} is not text") from None
    if not text:
        raise SettingsError(f"the secret file {path} is empty")
    return text


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
