"""What stands behind the golden files, as values of this code: every event, sparse and full, open and sealed.

A golden file is never edited. A new field gets a default, so that an old file still decodes to the value
here; a new version gets a new file beside the old one.
"""

from pathlib import Path
from typing import Any

import msgspec

from keyledger.events import (
    EpochAccepted,
    EpochStarted,
    Event,
    KeyChanged,
    KeyCreated,
    KeyImported,
    KeyRevoked,
    KeyRotated,
    KeyText,
    KeyTextChange,
    LostDenial,
    MemberAdded,
    MemberChanged,
    MemberRemoved,
    NewSecret,
    PepperActivated,
    PepperRetired,
    Proof,
    Quota,
    RateLimit,
    Reason,
    Recorded,
    SecretDigested,
    SecretRetired,
    WorkspaceChanged,
    WorkspaceCreated,
    WorkspaceDeleted,
    WorkspaceText,
)
from keyledger.grants import EXHAUSTED, Ask, Grant, Grants, Lease, Recall, Recalled, Want
from keyledger.wire import (
    ErasedUses,
    Followed,
    Head,
    HeadQuestion,
    Page,
    RecordedUses,
    SnapshotPage,
    Use,
    UseBatch,
)

GOLDEN = Path(__file__).parent / "golden"
AT = 1_767_323_045_000_001
SEALED = bytes(range(240, 256)) + bytes(range(13))
DIGEST, OTHER_DIGEST = bytes(range(32)), bytes(range(100, 132))
WS, KEY, CALLER = "ws_02rQMCKvbyFMiM9Avxqbys", "key_02rQMCL0IBdTyeqzsvaJwW", "key_02rQMCL5MVbezDKUfuc0yn"
USER = "user_02rQMCL9zYQhJZqS0dNfGp"
ONE, TWO = (
    NewSecret("cvtk_live_…Ab9z", {"p1": DIGEST}),
    NewSecret("cvtk_test_…0000", {"p2": OTHER_DIGEST, "p1": DIGEST}),
)

IMPORTED = NewSecret("imported", {"p1": DIGEST})

#: (tag, schema version) → name of the example → the event
EVENTS: dict[tuple[str, int], dict[str, Event]] = {
    ("key_created", 1): {
        "sparse": KeyCreated("live", ("*",), ONE),
        "open": KeyCreated("live", ("*",), ONE, private=KeyText("CI")),
        "full": KeyCreated(
            "test",
            ("contacts:read", "keyledger:keys:read"),
            TWO,
            expires_at=AT,
            rate_limit=RateLimit(5, 3600, "closed"),
            private=KeyText(
                name='Büro "№ 1" 🔑\\',
                allowed_ips=("10.0.0.0/8", "2001:db8::/32"),
                external_id="user-17",
                metadata={"z": "1", "a": "2\n"},
                proof="$argon2id$v=19$m=1024,t=1,p=1$c2FsdA$aGFzaA",
            ),
        ),
        "sealed": KeyCreated("live", ("*",), ONE, private=SEALED),
        "quota": KeyCreated("live", ("*",), ONE, quota=Quota(5, "day")),
    },
    ("key_changed", 1): {
        "sparse": KeyChanged(enabled=False),
        "cleared": KeyChanged(
            expires_at=None, rate_limit=None, private=KeyTextChange(allowed_ips=None, external_id=None)
        ),
        "full": KeyChanged(
            scopes=(),
            expires_at=AT,
            rate_limit=RateLimit(1, 60),
            enabled=True,
            private=KeyTextChange(name="New", allowed_ips=("::1",), external_id="u2", metadata={}),
        ),
        "sealed": KeyChanged(scopes=("a", "b"), private=SEALED),
        "quota": KeyChanged(quota=Quota(5, "month")),
        "no_quota": KeyChanged(quota=None),
    },
    ("key_rotated", 1): {
        "sparse": KeyRotated(ONE, AT),
        "full": KeyRotated(TWO, AT, retire="on_first_use", private=Proof("$argon2id$…")),
        "sealed": KeyRotated(ONE, AT, private=SEALED),
        "without_proof": KeyRotated(ONE, AT, private=Proof()),
    },
    ("key_revoked", 1): {
        "sparse": KeyRevoked(),
        "full": KeyRevoked(Reason("leaked", "seen in a log\nby Ada")),
        "sealed": KeyRevoked(SEALED),
    },
    ("workspace_created", 1): {
        "sparse": WorkspaceCreated(RateLimit(1000, 60)),
        "full": WorkspaceCreated(RateLimit(1, 86_400, "static"), system=True, private=WorkspaceText("Acme")),
        "sealed": WorkspaceCreated(RateLimit(7, 1, "open"), private=SEALED),
        "quota": WorkspaceCreated(RateLimit(7, 1), quota=Quota(100_000, "month")),
    },
    ("workspace_changed", 1): {
        "sparse": WorkspaceChanged(suspended=True),
        "full": WorkspaceChanged(RateLimit(2, 30), suspended=False, private=WorkspaceText("New")),
        "sealed": WorkspaceChanged(private=SEALED),
        "quota": WorkspaceChanged(quota=Quota(100_000, "month")),
        "no_quota": WorkspaceChanged(quota=None),
        "raised": WorkspaceChanged(RateLimit(9, 60, before=5, since=AT), quota=Quota(7, "day", since=AT)),
    },
    ("key_imported", 1): {
        "sparse": KeyImported("live", ("*",), IMPORTED),
        "open": KeyImported("live", ("*",), IMPORTED, private=KeyText("CI")),
        "full": KeyImported(
            "test",
            ("contacts:read",),
            IMPORTED,
            expires_at=AT,
            rate_limit=RateLimit(5, 3600, "closed"),
            private=KeyText(
                name="Büro",
                allowed_ips=("10.0.0.0/8",),
                external_id="user-17",
                metadata={"z": "1"},
                proof="$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA",
            ),
        ),
        "sealed": KeyImported("live", ("*",), IMPORTED, private=SEALED),
        "quota": KeyImported("live", ("*",), IMPORTED, quota=Quota(5, "day")),
    },
    ("secret_digested", 1): {"whole": SecretDigested(3, {"p2": OTHER_DIGEST, "p1": DIGEST})},
    ("secret_retired", 1): {"whole": SecretRetired(2**40)},
    ("member_added", 1): {
        "whole": MemberAdded(USER, "owner"),
        "a role from the future": MemberAdded(USER, "auditor"),
    },
    ("member_changed", 1): {"whole": MemberChanged(USER, "viewer")},
    ("member_removed", 1): {"whole": MemberRemoved(USER)},
    ("pepper_activated", 1): {"whole": PepperActivated("p10")},
    ("pepper_retired", 1): {"whole": PepperRetired("p1")},
    ("workspace_deleted", 1): {"whole": WorkspaceDeleted()},
    ("epoch_started", 1): {
        "sparse": EpochStarted(2, bytes.fromhex("0123456789abcdef"), 2**40),
        "whole": EpochStarted(
            3,
            bytes.fromhex("fedcba9876543210"),
            9,
            7,
            12,
            (
                LostDenial(WS, "revoked", KEY),
                LostDenial(WS, "retired", KEY, 2, AT),
                LostDenial(WS, "expired", KEY, since=AT),
                LostDenial(WS, "suspended"),
            ),
        ),
    },
    ("epoch_accepted", 1): {"whole": EpochAccepted(3)},
}

EPOCH_LINE = bytes.fromhex("0123456789abcdef")


def _link(position: int, version: int, tag: str, data: bytes, **other: Any) -> Recorded:
    plain: dict[str, Any] = {
        "stream_id": KEY,
        "schema_version": 1,
        "workspace_id": WS,
        "actor": CALLER,
        "request_id": f"req_{position}",
        "at": AT + position,
    }
    return Recorded(
        position=position,
        version=version,
        type=tag,
        data=data,
        hash=b"",
        previous_hash=b"",
        **(plain | other),
    )


#: A chain from genesis; hashes stand in the golden file.
CHAIN = (
    _link(1, 1, "workspace_created", b'{"rate_limit":{"limit":1000,"window_seconds":60}}', stream_id=WS),
    _link(2, 1, "key_created", b"\x00\xff not even JSON \xf0\x9f", actor="system", request_id=""),
    _link(3, 2, "key_changed", b"", at=AT + 2),
    _link(4, 3, "clé_gelée", b"{}", schema_version=32_767, actor="Ünïcode", at=-1),
    _link(2**40, 2**33, "key_revoked", b"x" * 3000, at=2**62),
)

_USE = Use(WS, KEY, "live", AT - AT % 60_000_000, "VALID", 3, 5, AT)
_REFUSED = Use(WS, KEY, "test", 0, "RATE_LIMITED", 2**31, 0, 2**53)
_OWNED = Use(WS, KEY, "live", 0, "VALID", 1, 1, 5, "usér-17")

#: Name of the golden file's entry → the struct; all of them cross process borders as msgpack.
STRUCTS: dict[str, Any] = {
    "Followed": Followed(7, DIGEST, OTHER_DIGEST, KEY, 2, "key_revoked", 1, WS, AT, b"{}"),
    "UseBatch": UseBatch("boot-1", 0, (_USE, _REFUSED)),
    "UseBatch, empty": UseBatch("", 2**40, ()),
    "UseBatch, with first uses": UseBatch("boot-1", 7, (_USE,), ((KEY, 3), (CALLER, 2**40))),
    "UseBatch, with an external id": UseBatch("boot-1", 8, (_OWNED,), ((KEY, 3),)),
    "RecordedUses": RecordedUses(9, AT, (_USE,)),
    "RecordedUses, with an external id": RecordedUses(9, AT, (_OWNED,)),
    "ErasedUses": ErasedUses(10, AT, (), (WS,)),
    "Page": Page(3, EPOCH_LINE, 2**40, DIGEST, 12),
    "Head": Head("nonce", 3, EPOCH_LINE, 2**40, DIGEST, AT),
    "Head, held": Head("", 1, EPOCH_LINE, 0, bytes(32), 0, False),
    "Head, with pepper and writer": Head("n", 3, EPOCH_LINE, 7, DIGEST, AT, True, "p10", "writer_1"),
    "HeadQuestion, of one who leaves": HeadQuestion(
        "", "verifier-1", EPOCH_LINE, 7, ("p1", "p10"), 12.5, leaving=True
    ),
    "HeadQuestion": HeadQuestion("nonce", "verifier-1", EPOCH_LINE, 2**40),
    "HeadQuestion, first": HeadQuestion("n", "v"),
    "SnapshotPage": SnapshotPage(1, 3, EPOCH_LINE, 2**40, DIGEST, KEY, True, (2, OTHER_DIGEST)),
    "SnapshotPage, last": SnapshotPage(1, 3, EPOCH_LINE, 0, bytes(32), "", False),
    "Ask": Ask(
        "verifier-1",
        2**33,
        7,
        (Want(KEY, 60, 1_767_323_040, 1000, 7, 3, 12), Want(WS, "month", 0, 5, 1, 0)),
        1_767_323_010,
        leaving=True,
        replaces="verifier-0",
    ),
    "Ask, first": Ask("verifier-1", 0, 1),
    "Ask, for a raised quota": Ask("verifier-1", 2, 3, (Want(WS, "month", 0, 50, 5, 0, 12, AT, 4),)),
    "Grants": Grants(
        2,
        7,
        AT,
        (Grant(WS, "day", 1_767_312_000, 5, 990, EXHAUSTED),),
        Lease(1_767_323_010, 1_767_323_070, 4, static=False, made=1_767_323_020),
        (Recalled(WS, 60, 1_767_323_040, 1000),),
    ),
    "Grants, none": Grants(2, 8, AT),
    "Recall, to tell": Recall(2, AT, (), WS),
    "Recall": Recall(2, AT, (Recalled(KEY, 3600, 1_767_322_800, 12),)),
}


def golden(name: str) -> Any:
    """A golden file's content."""
    return msgspec.json.decode((GOLDEN / name).read_bytes())
