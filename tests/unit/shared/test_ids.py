"""Where ids and secrets are drawn."""

import re

from keyledger.server.ids import new_id, new_request_id, new_secret
from keyledger.token import base62_value, is_id


def test_an_id_is_a_uuid_of_version_seven() -> None:
    made = new_id("key")
    assert is_id(made, "key")
    number = base62_value(made.removeprefix("key_"))
    assert (number >> 76 & 0xF, number >> 62 & 0b11) == (7, 0b10)


def test_ids_sort_by_their_creation_and_never_repeat() -> None:
    made = [new_id("ws") for _ in range(1000)]
    assert made == sorted(set(made))


def test_secrets_are_of_full_length_and_use_the_whole_alphabet() -> None:
    made = [new_secret() for _ in range(200)]
    assert len(set(made)) == 200
    assert all(re.fullmatch(r"[0-9A-Za-z]{32}", secret) for secret in made)
    # 6,400 draws of 62 letters: one that is missing would be a miracle
    assert len(set("".join(made))) == 62


def test_a_request_without_an_id_gets_one_that_can_be_a_header() -> None:
    assert re.fullmatch(r"req_[0-9A-Za-z]{22}", new_request_id())
    assert new_request_id() != new_request_id()
