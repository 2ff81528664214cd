"""Forms as they came: read, and either understood or sent back with a word beside each field.

Every field is held against the contract here, so that all that is wrong is said at once; the services decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

from msgspec import Struct

from keyledger.errors import Refusal, invalid_request
from keyledger.events import RateLimit
from services.dashboard.backend import NewKey
from services.dashboard.pages import fields
from services.dashboard.pages.keys import KeyView

MAX_FIELDS = 300
EXPIRIES = {
    "never": "Never",
    "7": "7 days",
    "30": "30 days",
    "90": "90 days",
    "365": "1 year",
    "on": "On a date",
}
WINDOWS = {"1": "per second", "60": "per minute", "3600": "per hour", "86400": "per day"}
_SEPARATORS = re.compile(r"[\s,;]+")
_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
#: which input of a form stands for a field of the contract
_INPUTS = {
    "rate_limit": "limit",
    "rate_limit.limit": "limit",
    "rate_limit.window_seconds": "limit",
    "overlap_seconds": "overlap",
}


class Form(Struct, frozen=True):
    """What was typed, and what is wrong with it by input; the word for the whole form is under ``""``."""

    values: Mapping[str, str]
    many: Mapping[str, tuple[str, ...]] = {}
    errors: Mapping[str, str] = {}

    def get(self, name: str, default: str = "") -> str:
        """What was typed into this input, last given last."""
        return self.values.get(name, default)

    def all(self, name: str) -> tuple[str, ...]:
        """Every box that was ticked under this name."""
        return self.many.get(name, ())

    def error(self, name: str) -> str:
        """What is wrong with this input; empty when nothing is."""
        return self.errors.get(name, "")

    def refused(self, errors: Mapping[str, str]) -> Form:
        """The same form with words beside its inputs."""
        return Form(self.values, self.many, errors)


class FormRefused(Exception):
    """The form cannot be understood; `errors` are by input."""

    def __init__(self, errors: Mapping[str, str]) -> None:
        super().__init__("the form cannot be understood")
        self.errors = errors


def read(body: bytes) -> Form:
    """The form in a body; `invalid_request` for one that is none. Control characters stay for the service."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="strict"
        )
    except ValueError:
        raise invalid_request("The form cannot be read.") from None
    many: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        many[name] = (*many.get(name, ()), value)
    return Form({name: values[-1] for name, values in many.items()}, many)


def errors_of(refusal: Refusal, inputs: Iterable[str]) -> dict[str, str]:
    """A service's word, beside the input it is about, or over the form when it has none there."""
    field = refusal.field or ""
    name = _INPUTS.get(field, field)
    return {name if name in frozenset(inputs) else "": refusal.message}


KEY_INPUTS = (
    "name",
    "environment",
    "scopes",
    "expires_at",
    "limit",
    "allowed_ips",
    "external_id",
    "metadata",
)


def new_key(form: Form, *, now: datetime) -> NewKey:
    """The key that the form describes, or `FormRefused`."""
    wanted, errors = _understood(form, now)
    if form.get("environment") not in ("live", "test"):
        errors["environment"] = "Choose live or test."
    if errors:
        raise FormRefused(errors)
    return wanted


def _understood(form: Form, now: datetime) -> tuple[NewKey, dict[str, str]]:
    """What could be understood, and what is wrong with the rest."""
    errors: dict[str, str] = {}
    name, external_id = form.get("name").strip(), form.get("external_id").strip()
    wanted = NewKey(
        name=name,
        environment=form.get("environment"),
        scopes=_scopes(form, errors),
        expires_at=_expiry(form, errors, now),
        allowed_ips=listed(form.get("allowed_ips")) or None,
        rate_limit=_limit(form, errors),
        external_id=external_id or None,
        metadata=_metadata(form, errors),
    )
    told = {
        "name": fields.name(name),
        "scopes": fields.scopes(wanted.scopes),
        "allowed_ips": fields.addresses(wanted.allowed_ips or ()),
        "external_id": fields.external_id(external_id),
    }
    return wanted, {**{field: why for field, why in told.items() if why}, **errors}


_OF_INPUTS: Mapping[str, tuple[str, ...]] = {
    "name": ("name",),
    "scopes": ("access", "scopes", "management"),
    "expires_at": ("expiry", "expires_at"),
    "allowed_ips": ("allowed_ips",),
    "rate_limit": ("limit", "window"),
    "external_id": ("external_id",),
    "metadata": ("metadata",),
}


def changes(form: Form, before: Form, *, now: datetime) -> dict[str, Any]:
    """The fields of a `PATCH`: those whose inputs say something else than `before`, or `FormRefused`.

    What was not touched is not sent, so that what a form cannot hold (a line break in a value) stays.
    """
    touched = {
        field for field, inputs in _OF_INPUTS.items() if any(_differs(form, before, name) for name in inputs)
    }
    wanted, wrong = _understood(form, now)
    errors = {name: why for name, why in wrong.items() if any(name in _OF_INPUTS[field] for field in touched)}
    if errors:
        raise FormRefused(errors)
    return {field: getattr(wanted, field) for field in _OF_INPUTS if field in touched}


def _differs(form: Form, before: Form, name: str) -> bool:
    if name == "management":
        return set(form.all(name)) != set(before.all(name))
    if name == "expires_at":
        # its own input counts only beside the choice of a date
        return form.get("expiry") == "on"
    if name == "window" and not form.get("limit").strip():
        return False
    if name == "scopes" and form.get("access") != "some":
        return False
    return _plain(form.get(name)) != _plain(before.get(name))


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").strip()


def filled(key: KeyView) -> Form:
    """The edit form of a key as it is."""
    reserved = tuple(scope for scope in key.scopes if scope.startswith("keyledger:"))
    own = [scope for scope in key.scopes if scope not in reserved]
    values = {
        "name": key.name,
        "access": "all" if own == ["*"] else "some",
        "scopes": "" if own == ["*"] else " ".join(own),
        "expiry": "keep" if key.expires else "never",
        "allowed_ips": "\n".join(key.allowed_ips),
        "limit": "" if key.limit_number is None else str(key.limit_number),
        "window": str(key.limit_window or 60),
        "external_id": key.external_id or "",
        "metadata": "\n".join(f"{name}={value}" for name, value in key.metadata.items()),
    }
    return Form(values, {"management": reserved})


def number(text: str) -> int | None:
    """A whole number of at most 18 digits, spaces and commas between thousands allowed; else None."""
    plain = text.replace(",", "").replace(" ", "")
    return int(plain) if _NUMBER.fullmatch(plain) else None


def listed(text: str) -> tuple[str, ...]:
    """The words of a list that is separated by spaces, commas or lines, each once."""
    return tuple(dict.fromkeys(word for word in _SEPARATORS.split(text) if word))


def when(text: str) -> datetime | None:
    """A moment: RFC 3339, or a date and time that is taken for UTC; None for what is neither."""
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _scopes(form: Form, errors: dict[str, str]) -> tuple[str, ...]:
    management = tuple(scope for scope in form.all("management") if scope.startswith("keyledger:"))
    if form.get("access", "all") == "all":
        return ("*", *management)
    own = listed(form.get("scopes"))
    if not own and not management:
        errors["scopes"] = "List at least one scope, or choose all."
    return tuple(dict.fromkeys((*own, *management)))


def _expiry(form: Form, errors: dict[str, str], now: datetime) -> datetime | None:
    choice = form.get("expiry", "never")
    if choice in ("never", "keep"):
        return None
    if choice == "on":
        moment = when(form.get("expires_at"))
        if moment is None:
            errors["expires_at"] = "Choose the date and time at which the key expires."
        elif why := fields.expiry(moment, now):
            errors["expires_at"] = why
        return moment
    days = number(choice)
    if days is None or days > 3_650:
        errors["expires_at"] = "Choose when the key expires."
        return None
    return now + timedelta(days=days)


def _limit(form: Form, errors: dict[str, str]) -> RateLimit | None:
    if not (typed := form.get("limit").strip()):
        return None
    limit, window = number(typed), number(form.get("window", "60"))
    if limit is None or window is None:
        errors["limit"] = "Enter a whole number of requests."
        return None
    wanted = RateLimit(limit, window)
    if why := fields.limit(wanted):
        errors["limit"] = why
    return wanted


def _metadata(form: Form, errors: dict[str, str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for line in form.get("metadata").splitlines():
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            errors["metadata"] = f"Enter one name=value per line; “{line.strip()[:40]}” is not one."
            return pairs
        pairs[name.strip()] = value.strip()
    if why := fields.metadata(pairs):
        errors["metadata"] = why
    return pairs
