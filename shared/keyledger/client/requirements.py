"""Which scopes a request needs, by its method and path.

A router may treat a path with a doubled or trailing slash as the path without, so they are the same here:
spelling a path differently never needs less.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_RULE = re.compile(r"([A-Z]+|\*) (/\S*)")


class Requirements:
    """Rules such as `{"POST /v1/contacts/{id}": ["contacts:write"]}`; `ValueError` for one that is none."""

    def __init__(self, rules: Mapping[str, Sequence[str]]) -> None:
        self._rules = [_rule(text, scopes) for text, scopes in rules.items()]

    def of(self, scope: Mapping[str, Any]) -> tuple[str, ...]:
        """The scopes of every rule that fits this ASGI scope: HEAD and a WebSocket's handshake are a GET."""
        method = scope.get("method", "GET")
        method = "GET" if method == "HEAD" else method
        path = _plain(scope["path"])
        needed = (
            name
            for rule_method, pattern, names in self._rules
            if rule_method in ("*", method) and pattern.fullmatch(path)
            for name in names
        )
        return tuple(dict.fromkeys(needed))


def _rule(text: str, scopes: Sequence[str]) -> tuple[str, re.Pattern[str], tuple[str, ...]]:
    rule = _RULE.fullmatch(text)
    if rule is None or isinstance(scopes, str):
        raise ValueError(f"not a rule like 'POST /path': [scopes]: {text!r}")
    segments = re.split(r"\{[^{}/]+\}", _plain(rule[2]))
    return rule[1], re.compile("[^/]+".join(re.escape(part) for part in segments)), tuple(scopes)


def _plain(path: str) -> str:
    return "/" + "/".join(segment for segment in path.split("/") if segment)
