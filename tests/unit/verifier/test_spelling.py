"""Which names are taken for one of ours."""

import pytest

from keyledger.errors import Refusal
from services.verifier.handlers.spelling import refuse_other_spellings

IDENTITY = [b"x-workspace-id", b"x-key-id", b"x-key-name", b"x-key-environment", b"x-key-scopes"]
OTHERS = [b"x-api-key", b"x-required-scopes", b"x-required-environment", b"x-verifier-token"]
SEPARATORS = [bytes([each]) for each in b"_.~!#$%&'*+^`|"]


@pytest.mark.parametrize("name", IDENTITY + OTHERS)
def test_every_separator_but_the_dash_is_refused(name: bytes) -> None:
    for separator in SEPARATORS:
        for alias in (name.replace(b"-", separator), name.replace(b"-", separator, 1)):
            with pytest.raises(Refusal) as refused:
                refuse_other_spellings([(b"host", b"a"), (alias, b"")])
            assert refused.value.code == "invalid_request"
            assert (refused.value.field or "").lower().encode() == name


@pytest.mark.parametrize("name", IDENTITY)
def test_an_identity_comes_once(name: bytes) -> None:
    refuse_other_spellings([(name, b"a"), (b"accept", b"b"), (b"accept", b"c")])
    with pytest.raises(Refusal):
        refuse_other_spellings([(name, b"a"), (b"accept", b"b"), (name, b"a")])


@pytest.mark.parametrize(
    "name", [*OTHERS, b"x_other", b"x-key-identity", b"x.keys.id", b"x_key", b"xxkey-id", b"_"]
)
def test_what_is_nobodys_may_be_called_anything_and_come_twice(name: bytes) -> None:
    refuse_other_spellings([(name, b"a"), (name, b"a")])
