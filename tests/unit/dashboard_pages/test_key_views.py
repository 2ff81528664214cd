"""Keys, differences between two moments, and receipts."""

from datetime import UTC, datetime

import msgspec
import pytest

from keyledger.client.records import Applied, Key, Receipt, SecretHint
from keyledger.events import RateLimit
from services.dashboard.pages.actors import Names
from services.dashboard.pages.keys import differences, receipt, view
from tests.support.dashboard_backend import made_id

NOW = datetime(2026, 11, 2, 9, 0, tzinfo=UTC)
KEY = Key(
    id=made_id("key", 1), workspace_id=made_id("ws", 1), name="billing", environment="live", scopes=("*",),
    enabled=True, status="active", created_at=NOW, created_by="system", expires_at=None, allowed_ips=None,
    rate_limit=RateLimit(20, 60), external_id=None, metadata={},
    secrets=(
        SecretHint(hint="old", created_at=NOW, valid_until=NOW), SecretHint(hint="new", created_at=NOW),
    ), version=3,
)  # fmt: skip
NOBODY = Names({}, {})


def test_a_key_is_shown_by_its_newest_secret() -> None:
    shown = view(KEY, NOBODY, last_used=NOW)
    assert shown.hint == "new"
    assert [hint.newest for hint in shown.hints] == [False, True]
    assert shown.hints[0].until is not None
    assert shown.limit == "20 per minute"
    assert shown.last_used is not None
    assert (shown.everything, shown.final, shown.href) == (True, False, f"/settings/api-keys/{KEY.id}")


def test_a_key_without_a_secret_has_no_hint() -> None:
    assert view(msgspec.structs.replace(KEY, secrets=(), status="revoked"), NOBODY).hint == ""


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"name": "b"}, "Name"),
        ({"status": "disabled"}, "Status"),
        ({"scopes": ("a",)}, "Scopes"),
        ({"expires_at": NOW}, "Expires"),
        ({"allowed_ips": ("192.0.2.1",)}, "Allowed addresses"),
        ({"rate_limit": None}, "Limit"),
        ({"external_id": "x"}, "External id"),
        ({"metadata": {"a": "b"}}, "Metadata"),
        ({"secrets": ()}, "Secrets"),
    ],
)
def test_what_has_changed_between_two_moments_is_found(change: dict[str, object], label: str) -> None:
    then, now = view(KEY, NOBODY), view(msgspec.structs.replace(KEY, **change), NOBODY)
    assert [each.label for each in differences(then, now)] == [label]
    assert differences(then, then) == ()


def test_a_receipt_says_everywhere_only_when_nobody_is_pending() -> None:
    told = receipt(Receipt((Applied("b", 31.4), Applied("a", 12))))
    assert told is not None
    assert (told.headline, told.complete) == ("Refused everywhere after 31 ms", True)
    assert [(each.verifier, each.ms, each.share) for each in told.confirmed] == [
        ("a", 12, 38),
        ("b", 31, 100),
    ]


def test_a_receipt_with_pending_verifiers_is_honest() -> None:
    told = receipt(Receipt((Applied("a", 12),), ("b", "c"), NOW))
    assert told is not None
    assert (told.headline, told.complete) == ("Refused by 1 of 3 verifiers so far", False)
    assert told.pending == ("b", "c")
    assert told.certain_by is not None


def test_a_receipt_without_any_verifier_claims_nothing() -> None:
    told = receipt(Receipt())
    assert told is not None
    assert not told.complete
    assert "No verifier" in told.headline
    assert receipt(None) is None


def test_verifiers_that_took_no_time_still_have_a_bar() -> None:
    told = receipt(Receipt((Applied("a", 0),)))
    assert told is not None
    assert told.confirmed[0].share > 0
    assert told.headline == "Refused everywhere after 0 ms"
