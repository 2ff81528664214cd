"""What each service of the local run is told, and what it is not."""

import shlex
import sys
from pathlib import Path

import pytest

from infra.local.home import Home
from infra.local.services import Servers, service_specs
from infra.local.settings import read_settings
from infra.local.welcome import typed, welcome

SERVERS = Servers(
    postgres={
        "keys": "postgresql://keys",
        "usage": "postgresql://usage",
        "dashboard": "postgresql://dashboard",
    },
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
    assert envs["dashboard"]["KEYLEDGER_POSTGRES"] == "postgresql://dashboard"
    assert envs["dashboard"]["KEYLEDGER_SEAL_SECRET_FILE"] == "/home/dashboard.secret"
    assert (
        not {"KEYLEDGER_NATS", "KEYLEDGER_PEPPERS", "KEYLEDGER_SERVICE_KEY_FILE"} & envs["dashboard"].keys()
    )


def test_the_key_service_believes_the_dashboard_by_the_keys_it_publishes() -> None:
    envs = environments()
    assert envs["keys"]["KEYLEDGER_JWT_ISSUER"] == envs["dashboard"]["KEYLEDGER_PUBLIC_URL"]
    assert envs["keys"]["KEYLEDGER_JWKS_URL"] == "http://127.0.0.1:8400/.well-known/jwks.json"
    assert "KEYLEDGER_JWT_ISSUER" not in envs["verifier"]


def test_without_a_provider_the_dashboard_serves_this_machine_alone() -> None:
    beyond = {"KEYLEDGER_HOST": "0.0.0.0"}
    provider = {"KEYLEDGER_OIDC_ISSUER": "https://id.example", "KEYLEDGER_PUBLIC_URL": "https://keys.example"}
    for environ, host in ((beyond, "127.0.0.1"), (beyond | provider, "0.0.0.0")):
        specs = service_specs(read_settings(environ), Home(Path("/home")), SERVERS)
        [told] = [spec for spec in specs if spec.name == "dashboard"]
        assert (told.env["KEYLEDGER_HOST"], told.host) == (host, "127.0.0.1")
    assert told.env["KEYLEDGER_OIDC_ISSUER"] == "https://id.example"
    assert told.env["KEYLEDGER_PUBLIC_URL"] == "https://keys.example"


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
    text = welcome(
        read_settings({"KEYLEDGER_PORT_BASE": "9000"}),
        Home(Path("/a b")),
        "http://link",
        ".venv/bin/keyledger",
    )
    assert "< '/a b/bootstrap.json')" in text
    assert "http://127.0.0.1:9004/v1/contacts" in text
    assert "\n  http://link\n" in text
    assert "`.venv/bin/keyledger login` prints another" in text
    assert "works once" not in welcome(read_settings({}), Home(Path("/a")), None, "keyledger")


def test_the_command_is_named_as_it_can_be_typed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(sys.executable).with_name("keyledger")
    default, other = Home(read_settings({}).home), Home(Path("/a b"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(program.parents[2])
    assert typed(default) == str(program.relative_to(program.parents[2])), "as in a checkout"
    assert typed(other) == f"KEYLEDGER_HOME='/a b' {typed(default)}"
    monkeypatch.chdir(tmp_path)
    assert typed(default) == shlex.quote(str(program))
    (tmp_path / "keyledger").write_text("")
    (tmp_path / "keyledger").chmod(0o755)
    assert typed(default) == shlex.quote(str(program)), "another one is on the path"
    monkeypatch.setenv("PATH", str(program.parent))
    assert typed(default) == "keyledger"
