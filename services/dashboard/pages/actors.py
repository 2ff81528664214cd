"""Who did it: actors of the log as people know them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from keyledger.token import is_id
from services.dashboard.ports import Person


class Actor(Struct, frozen=True):
    """Somebody or something that acts: `kind` is person, key or system."""

    id: str
    kind: str
    label: str
    href: str | None = None
    initials: str = ""


class Names(Struct, frozen=True):
    """What is known of ids: people by user id, names of keys by key id."""

    people: Mapping[str, Person]
    keys: Mapping[str, str]

    def actor(self, id_: str) -> Actor:
        """An actor; whom nobody knows any more is told as a former member."""
        if is_id(id_, "user"):
            person = self.people.get(id_)
            if person is None or not (person.name or person.mail):
                return Actor(id_, "person", "A former user", initials="?")
            return Actor(id_, "person", person.called, initials=initials(person.called))
        if is_id(id_, "key"):
            name = self.keys.get(id_)
            label = f"Key “{name}”" if name else f"Management key {short(id_)}"
            return Actor(id_, "key", label, f"/settings/api-keys/{id_}" if name else None)
        return Actor(id_, "system", "Keyledger" if id_ == "system" else id_)

    def key(self, id_: str) -> str:
        """What to call a key."""
        name = self.keys.get(id_)
        return f"“{name}”" if name else short(id_)


def users_in(ids: Iterable[str]) -> list[str]:
    """The user ids among these, each once."""
    return list(dict.fromkeys(id_ for id_ in ids if is_id(id_, "user")))


def initials(name: str) -> str:
    """One or two letters for a person's mark."""
    words = [word for word in name.replace("@", " ").split() if word[0].isalnum()]
    if not words:
        return "?"
    letters = words[0][0] + (words[-1][0] if len(words) > 1 and "@" not in name else "")
    return letters.upper()


def short(id_: str) -> str:
    """An id that can be told from others at a glance."""
    kind, _, rest = id_.partition("_")
    return f"{kind}_{rest[:4]}…{rest[-4:]}" if len(rest) > 8 else id_
