"""What each service of the local run is told, and what it is not."""

from pathlib import Path

from infra.local.home import Home
from infra.local.services import Servers, service_specs
from infra.local.settings import read_settings
from infra.local.welcome import welcome

SERVERS = Servers(
    postgres={"keys": "postgresql://keys", "usage": "postgresql://usage"},
    nats={"keys": "nats://keys", "verifier": "nats://verifier", "usage": "nats://usage"},
)
ENVIRON = {"PATH": "/bin", "SECRET": "hush", "PYTHONPATH": "/x", "TZ": "", "KEYLEDGER_TOKEN_PREFIX": "acme"}


def environments() -> dict[str, dict[str, str]]:
    specs = service_specs(read_settings(ENVIRON), Home(Path("/home")), SERVERS)
    return {spec.name: dict(spec.env) for spec in specs}


def test_the_environment_of_a_service_is_built_from_nothing() -> None:
    for env in environments().values():
        assert env["PATH"] == "/bin"
        assert not {"SECRET", "PYTHONPATH", "TZ"} & env.keys()


def test_each_service_gets_its_own_credentials_and_no_others() -> None:
    envs = environments()
    assert envs["keys"]["KEYLEDGER_POSTGRES"] == "postgresql://keys"
    assert envs["usage"]["KEYLEDGER_POSTGRES"] == "postgresql://usage"
    assert "KEYLEDGER_POSTGRES" not in envs["verifier"]
    assert envs["verifier"]["KEYLEDGER_SERVICE_KEY_FILE"] == "/home/secrets/verifier"
    assert not {"KEYLEDGER_NATS", "KEYLEDGER_PEPPERS", "KEYLEDGER_POSTGRES"} & envs["contacts"].keys()
    assert "KEYLEDGER_SEAL_SECRET_FILE" not in envs["verifier"]


def test_who_reads_tokens_knows_their_prefix() -> None:
    told = {name for name, env in environments().items() if env.get("KEYLEDGER_TOKEN_PREFIX") == "acme"}
    assert told == {"keys", "verifier"}


def test_no_service_imports_from_the_folder_it_runs_in() -> None:
    specs = service_specs(read_settings({}), Home(Path("/home")), SERVERS)
    assert all("-P" in spec.argv for spec in specs)


def test_a_description_of_a_child_shows_no_secret() -> None:
    specs = service_specs(read_settings({}), Home(Path("/home")), SERVERS)
    assert "postgresql://" not in repr(specs)


def test_the_welcome_quotes_a_home_with_a_space() -> None:
    text = welcome(read_settings({"KEYLEDGER_PORT_BASE": "9000"}), Home(Path("/a b")))
    assert "< '/a b/bootstrap.json')" in text
    assert "http://127.0.0.1:9004/v1/contacts" in text
