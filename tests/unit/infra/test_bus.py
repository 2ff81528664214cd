"""The configuration of the embedded NATS server."""

from pathlib import Path

from infra.local.bus import Bus

BUS = Bus(
    binary=Path("nats-server"),
    folder=Path("/home with space/nats"),
    host="127.0.0.1",
    port=4222,
    passwords={"keys": "k-word", "verifier": "v-word", "usage": "u-word"},
)


def test_what_is_acknowledged_is_on_disk() -> None:
    assert "sync_interval: always" in BUS.configuration()
    assert 'store_dir: "/home with space/nats/store"' in BUS.configuration()


def test_every_user_has_a_password_and_an_allow_list() -> None:
    users = [line for line in BUS.configuration().splitlines() if "user:" in line]
    assert len(users) == 3
    for line, name in zip(users, ("keys", "verifier", "usage"), strict=True):
        assert f'user: {name}, password: "{name[0]}-word"' in line
        assert "publish: { allow: [" in line
        assert "subscribe: { allow: [" in line
    assert "no_auth_user" not in BUS.configuration()


def test_only_the_key_service_touches_streams() -> None:
    keys, verifier, usage = (line for line in BUS.configuration().splitlines() if "user:" in line)
    assert "$JS.API.>" in keys
    assert "allow_responses: true" in keys
    for line in (verifier, usage):
        assert "$JS" not in line
    assert "allow_responses" not in verifier


def test_a_verifier_asks_for_grants_and_only_the_usage_service_answers() -> None:
    _, verifier, usage = (
        line.split("subscribe") for line in BUS.configuration().splitlines() if "user:" in line
    )
    assert '"kl.grant"' in verifier[0]
    assert '"kl.grant"' not in verifier[1]
    assert '"kl.grant"' in usage[1]
    assert '"kl.recall"' in usage[0]
    assert '"kl.recall"' in verifier[1]
    assert "allow_responses: true" in usage[1]


def test_passwords_are_not_in_its_repr() -> None:
    assert "word" not in repr(BUS)
