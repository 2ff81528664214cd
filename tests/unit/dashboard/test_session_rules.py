"""How long a session lasts, who renews it, and what its JWT says."""

import pytest
from msgspec.structs import replace

from services.dashboard.domain.session import ABSOLUTE, IDLE, JWT_SECONDS, Session, claims, renewal
from services.dashboard.domain.units import SECOND

NOW = 1_800_000_000 * SECOND
SESSION = Session("ses_1", "user_1", "ws_1", "admin", NOW, NOW)


def test_a_session_lasts_while_it_is_used() -> None:
    assert SESSION.is_live(NOW + IDLE - 1)
    assert not SESSION.is_live(NOW + IDLE)
    assert replace(SESSION, renewed_at=NOW + IDLE).is_live(NOW + IDLE)


def test_no_use_keeps_it_beyond_a_week() -> None:
    used = replace(SESSION, renewed_at=NOW + ABSOLUTE - 1)
    assert used.is_live(NOW + ABSOLUTE - 1)
    assert not used.is_live(NOW + ABSOLUTE)


@pytest.mark.parametrize(
    ("session", "current", "at", "accepted", "ends"),
    [
        (SESSION, True, NOW, True, False),
        (SESSION, False, NOW, False, True),
        (SESSION, True, NOW + IDLE, False, False),
        (SESSION, False, NOW + IDLE, False, False),
        (replace(SESSION, ended_at=NOW), True, NOW, False, False),
    ],
    ids=["good", "used before", "too late", "used before and too late", "ended"],
)
def test_only_the_current_token_of_a_live_session_renews(
    session: Session, current: bool, at: int, accepted: bool, ends: bool
) -> None:
    decided = renewal(session, current=current, now=at)
    assert (decided.accepted, decided.ends_family) == (accepted, ends)


def test_the_jwt_says_who_in_which_session_and_workspace() -> None:
    told = claims("https://id.example", SESSION, jwt_id="jti_1", now=NOW + 5)
    assert told == {
        "iss": "https://id.example", "aud": "keyledger", "sub": "user_1", "sid": "ses_1", "jti": "jti_1",
        "iat": NOW // SECOND, "exp": NOW // SECOND + JWT_SECONDS, "ws": "ws_1", "role": "admin",
    }  # fmt: skip


def test_without_a_workspace_the_jwt_names_none_and_no_role() -> None:
    told = claims("i", replace(SESSION, workspace_id=None), jwt_id="j", now=NOW)
    assert "ws" not in told
    assert "role" not in told


def test_a_jwt_never_outlasts_its_session() -> None:
    told = claims("i", SESSION, jwt_id="j", now=NOW + IDLE - 60 * SECOND)
    assert told["exp"] - told["iat"] == 60
