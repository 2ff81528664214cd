"""The log in words: each event as who did what, and the details below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from msgspec import Struct

from keyledger.client.records import KeyEvent
from services.dashboard.pages.actors import Actor, Names
from services.dashboard.pages.moments import Moment, moment, per_window, plural
from services.dashboard.pages.words import role_title

_Data = Mapping[str, Any]


class Detail(Struct, frozen=True):
    """One line below an entry; a moment where the value is one."""

    label: str
    text: str
    at: Moment | None = None


class Entry(Struct, frozen=True):
    """One event as a page shows it. `subject` is the key's name, with `key_id`, where it is about a key."""

    position: int
    at: Moment
    actor: Actor
    did: str
    subject: str
    key_id: str | None
    details: tuple[Detail, ...]
    tone: str
    type: str
    request_id: str
    version: int

    @property
    def sentence(self) -> str:
        """Who did what, as one line of text."""
        return " ".join(part for part in (self.actor.label, self.did, self.subject) if part)


def entry(event: KeyEvent, names: Names) -> Entry:
    """The event in words; one that this page does not know is told by its type."""
    did, tone = _told(event)
    key_id = event.stream if (event.stream or "").startswith("key_") else None
    subject = ""
    if key_id:
        subject = names.key(key_id)
    elif event.type.startswith("member_") and (
        isinstance(event.data.get("user"), str) and not _is_own(event)
    ):
        subject = names.actor(event.data["user"]).label
    return Entry(
        event.position,
        moment(event.at),
        names.actor(event.actor),
        did,
        subject,
        key_id,
        tuple(_details(event.data)),
        tone,
        event.type,
        event.request_id,
        event.version,
    )


def names_in(events: Iterable[KeyEvent]) -> dict[str, str]:
    """The names of keys that these events tell, each key's latest."""
    found: dict[str, str] = {}
    for event in sorted(events, key=lambda each: each.position):
        name = event.data.get("name")
        if event.stream and event.stream.startswith("key_") and isinstance(name, str) and name:
            found[event.stream] = name
    return found


_PLAIN: Mapping[str, tuple[str, str]] = {
    "key_created": ("created", "new"),
    "key_imported": ("imported", "new"),
    "key_rotated": ("rotated", "turn"),
    "key_revoked": ("revoked", "end"),
    "secret_digested": ("proved a secret of", "quiet"),
    "secret_retired": ("ended the previous secret of", "quiet"),
    "workspace_created": ("created the workspace", "new"),
    "workspace_deleted": ("deleted the workspace", "end"),
    "member_added": ("added", "new"),
    "member_changed": ("changed the role of", "turn"),
    "member_removed": ("removed", "end"),
}


def _told(event: KeyEvent) -> tuple[str, str]:
    """The verb, and the tone it is shown in."""
    if event.type == "key_changed":
        enabled = event.data.get("enabled")
        if isinstance(enabled, bool):
            return ("enabled", "new") if enabled else ("disabled", "end")
        return "changed", "turn"
    if event.type == "workspace_changed":
        return _workspace_change(event.data)
    if _is_own(event):
        return (
            ("joined the workspace", "new") if event.type == "member_added" else ("left the workspace", "end")
        )
    return _PLAIN.get(event.type, (f"recorded {event.type.replace('_', ' ')}", "quiet"))


def _is_own(event: KeyEvent) -> bool:
    """Whether it is their own membership that somebody begins or ends."""
    return event.type in ("member_added", "member_removed") and event.data.get("user") == event.actor


def _workspace_change(data: _Data) -> tuple[str, str]:
    if isinstance(data.get("suspended"), bool):
        return ("suspended the workspace", "end") if data["suspended"] else ("resumed the workspace", "new")
    return ("renamed the workspace" if "name" in data else "changed the workspace"), "turn"


def _scopes(value: Any) -> str:
    return "everything (*)" if list(value) == ["*"] else ", ".join(map(str, value)) or "none"


def _addresses(value: Any) -> str:
    return "any" if value is None else ", ".join(map(str, value))


def _limit(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "only the workspace’s"
    return per_window(int(value.get("limit", 0)), int(value.get("window_seconds", 0)))


def _quota(value: Any) -> str:
    if not isinstance(value, Mapping):
        return "none"
    return f"{int(value.get('limit', 0)):,} per {value.get('period')}"


def _plain(value: Any) -> str:
    return "none" if value in (None, "") else str(value)


def _hint(value: Any) -> str:
    return str(value.get("hint", "")) if isinstance(value, Mapping) else ""


_DETAILS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("name", "Name", _plain),
    ("environment", "Environment", _plain),
    ("scopes", "Scopes", _scopes),
    ("expires_at", "Expires", lambda value: "never" if value is None else str(value)),
    ("allowed_ips", "Addresses", _addresses),
    ("rate_limit", "Limit", _limit),
    ("quota", "Quota", _quota),
    ("external_id", "External id", _plain),
    ("metadata", "Metadata", lambda value: plural(len(value or {}), "pair")),
    ("secret", "Secret", _hint),
    ("previous_valid_until", "Previous secret ends", str),
    ("reason", "Reason", _plain),
    ("note", "Note", _plain),
    ("role", "Role", lambda value: role_title(str(value))),
)
_MOMENTS = {"expires_at", "previous_valid_until"}


def _details(data: _Data) -> list[Detail]:
    found: list[Detail] = []
    for field, label, words in _DETAILS:
        if field not in data or (field in ("reason", "note") and not data[field]):
            continue
        if not (text := words(data[field])):
            continue
        found.append(Detail(label, text, _moment(data[field]) if field in _MOMENTS else None))
    if data.get("retire") == "on_first_use":
        found.append(Detail("Ends early", "at the first use of the new secret"))
    return found


def _moment(text: Any) -> Moment | None:
    try:
        return moment(datetime.fromisoformat(text))
    except (TypeError, ValueError):
        return None
