"""What a request needs, however its path is spelt."""

import pytest

from keyledger.client.requirements import Requirements

RULES = Requirements({
    "POST /v1/contacts": ["contacts:write"],
    "GET /v1/contacts/{id}": ["contacts:read"],
    "* /v1/contacts/{id}": ["contacts:any", "contacts:read"],
    "GET /files/{name}.txt": ["files"],
})  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "needed"),
    [
        ("POST", "/v1/contacts", ("contacts:write",)),
        ("POST", "/v1/contacts/", ("contacts:write",)),
        ("POST", "//v1//contacts", ("contacts:write",)),
        ("GET", "/v1/contacts", ()),
        ("POST", "/v1/contactsX", ()),
        ("GET", "/v1/contacts/7", ("contacts:read", "contacts:any")),
        ("HEAD", "/v1/contacts/7", ("contacts:read", "contacts:any")),
        ("DELETE", "/v1/contacts/7", ("contacts:any", "contacts:read")),
        ("DELETE", "/v1/contacts/7/8", ()),
        ("GET", "/files/a.txt", ("files",)),
        ("GET", "/files/axtxt", ()),
    ],
)
def test_a_request_needs_the_scopes_of_every_rule_that_fits(
    method: str, path: str, needed: tuple[str, ...]
) -> None:
    assert RULES.of({"type": "http", "method": method, "path": path}) == needed


def test_the_handshake_of_a_websocket_is_a_get() -> None:
    assert Requirements({"GET /ws": ["live"]}).of({"type": "websocket", "path": "/ws"}) == ("live",)


@pytest.mark.parametrize("rule", ["/v1/contacts", "post /v1", "POST v1", "POST  /v1", "POST /a b"])
def test_what_is_no_rule_is_refused_when_the_application_is_made(rule: str) -> None:
    with pytest.raises(ValueError, match="not a rule"):
        Requirements({rule: ["x"]})


def test_scopes_given_as_one_text_are_refused() -> None:
    with pytest.raises(ValueError, match="not a rule"):
        Requirements({"GET /": "contacts:read"})
