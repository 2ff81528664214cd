"""One-time links: ours, whole, and not older than five minutes."""

import pytest

from keyledger.token import Secret
from services.dashboard.domain.invitation import is_note, may_invite
from services.dashboard.domain.login_link import LASTS_SECONDS, expiry, make

NOW = 1_800_000_000
SECRET = Secret("5" * 64)
TOKEN = make(SECRET, random_hex="ab" * 16, now_seconds=NOW).reveal()


def test_a_link_is_good_for_five_minutes() -> None:
    assert LASTS_SECONDS == 300
    assert expiry(SECRET, TOKEN, NOW) == NOW + 300
    assert expiry(SECRET, TOKEN, NOW + 299) == NOW + 300
    assert expiry(SECRET, TOKEN, NOW + 300) is None
    # made by a clock that is ahead: it would last longer than it may
    assert expiry(SECRET, TOKEN, NOW - 1) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        TOKEN[:-1],
        TOKEN + "0",
        TOKEN.replace("ab", "cd", 1),
        TOKEN.replace(str(NOW + 300), str(NOW + 299)),
        TOKEN.upper(),
        f"{TOKEN}\n",
    ],
)
def test_another_token_is_none(token: str) -> None:
    assert expiry(SECRET, token, NOW) is None


def test_another_secret_makes_other_links() -> None:
    assert expiry(Secret("6" * 64), TOKEN, NOW) is None


@pytest.mark.parametrize(
    ("own", "role", "may"),
    [
        ("owner", "owner", True),
        ("admin", "admin", True),
        ("admin", "viewer", True),
        ("admin", "owner", False),
        ("member", "viewer", False),
        ("viewer", "viewer", False),
        (None, "viewer", False),
        ("owner", "emperor", False),
        ("emperor", "viewer", False),
    ],
)
def test_who_may_invite_as_what(own: str | None, role: str, may: bool) -> None:
    assert may_invite(own, role) is may


def test_a_note_is_one_line() -> None:
    assert is_note("for Grace, grace@example.org")
    assert is_note("")
    assert not is_note("a\nb")
    assert not is_note("a" * 201)
