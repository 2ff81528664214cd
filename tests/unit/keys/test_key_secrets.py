"""A key's secrets besides rotation: imported, digested anew, ended by the first use of the next one."""

import pytest

from keyledger.events import KeyImported, KeyText, SecretDigested, SecretRetired
from services.keys.domain.key import RecordDigests, RetirePrevious
from services.keys.domain.principal import KEYS_WRITE
from tests.support.spec import NOW
from tests.unit.keys.examples import (
    HOUR,
    MANAGER,
    OPERATOR,
    changed,
    create,
    created,
    key_spec,
    revoked,
    rotate,
    rotated,
    secret,
)

IMPORTED = KeyImported("live", ("*",), secret(), private=KeyText(name="CI", proof="$proof1"))
OVERLAP = rotated(2, until=NOW + HOUR, retire="on_first_use")


def test_a_foreign_key_is_imported_and_not_created() -> None:
    key = key_spec.given().when(create(foreign=True)).then(IMPORTED)
    assert [(one.foreign, one.version, one.proof) for one in key.secrets] == [(True, 1, "$proof1")]
    assert (key.name, key.version, key.status(NOW)) == ("CI", 1, "active")


def test_nobody_imports_a_key_that_can_do_what_they_cannot() -> None:
    given = key_spec.given()
    scopes = ("keyledger:usage:read",)
    given.when(create(foreign=True, scopes=scopes)).then_raises("insufficient_permissions", field="scopes")
    given.when(create(foreign=True, scopes=(KEYS_WRITE,), by=MANAGER)).then(
        KeyImported("live", (KEYS_WRITE,), secret(), private=KeyText(name="CI", proof="$proof1"))
    )
    given.when(create(foreign=True, scopes=scopes, by=OPERATOR))


def test_an_imported_key_gets_tokens_of_ours_by_rotation() -> None:
    key = key_spec.given(IMPORTED).when(rotate(overlap_seconds=3600)).then(rotated(until=NOW + HOUR))
    assert [(one.foreign, one.version, one.valid(NOW)) for one in key.secrets] == [
        (True, 1, True),
        (False, 2, True),
    ]


def test_a_proven_secret_gets_the_digests_it_had_not() -> None:
    given = key_spec.given(created(), rotated(2, until=NOW + HOUR))
    digests = {"p1": b"other", "p2": b"new"}
    key = given.when(RecordDigests(2, digests)).then(SecretDigested(2, {"p2": b"new"}))
    assert [sorted(one.digests) for one in key.secrets] == [["p1"], ["p1", "p2"]]
    assert key.secrets[1].digests["p1"] == secret(2).digests["p1"], "what is recorded stays"
    assert key.version == 3


def test_a_digest_that_is_there_or_a_secret_that_is_not_causes_nothing() -> None:
    given = key_spec.given(created())
    given.when(RecordDigests(1, {"p1": b"again"})).then_nothing()
    given.when(RecordDigests(1, {})).then_nothing()
    given.when(RecordDigests(2, {"p2": b"new"})).then_nothing()
    key_spec.given().when(RecordDigests(1, {"p2": b"new"})).then_raises("not_found")


def test_a_secret_is_named_by_the_version_that_recorded_it() -> None:
    given = key_spec.given(created(), changed(enabled=False), rotated(2, until=NOW + HOUR))
    assert given.state is not None
    assert [one.version for one in given.state.secrets] == [1, 3]
    given.when(RecordDigests(2, {"p2": b"new"})).then_nothing()
    given.when(RecordDigests(3, {"p2": b"new"})).then(SecretDigested(3, {"p2": b"new"}))


def test_even_a_revoked_keys_secret_is_digested_so_that_its_holder_is_told() -> None:
    given = key_spec.given(created(), revoked())
    given.when(RecordDigests(1, {"p2": b"new"})).then(SecretDigested(1, {"p2": b"new"}))


def test_the_first_use_of_the_new_secret_ends_the_one_before() -> None:
    given = key_spec.given(created(), OVERLAP)
    assert given.state is not None
    assert given.state.secrets[0].valid(NOW)
    key = given.when(RetirePrevious(2)).then(SecretRetired(1))
    assert [one.valid(NOW) for one in key.secrets] == [False, True]
    assert key.secrets[0].valid(NOW - 1), "it was good until then"
    assert key.version == 3


@pytest.mark.parametrize(
    "past",
    [
        [created()],
        [created(), rotated(2, until=NOW + HOUR)],
        [created(), rotated(2, until=NOW - 1, retire="on_first_use")],
        [created(), OVERLAP, SecretRetired(1)],
        [created(), OVERLAP, rotated(3, until=NOW + HOUR)],
    ],
    ids=["never rotated", "at overlap", "ended by itself", "told twice", "rotated again"],
)
def test_a_first_use_that_nobody_waits_for_causes_nothing(past: list[object]) -> None:
    key_spec.given(*past).when(RetirePrevious(2)).then_nothing()


def test_a_use_of_the_old_secret_ends_nothing() -> None:
    key_spec.given(created(), OVERLAP).when(RetirePrevious(1)).then_nothing()
    key_spec.given().when(RetirePrevious(1)).then_raises("not_found")
