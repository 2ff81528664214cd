"""What the library says before it is entered: wrong arguments by name, and which extra is missing."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyledger.digest import PepperError
from keyledger.errors import Refusal
from keyledger.token import Secret
from keyledger.verification import Verifier
from keyledger.verification.verdict import Verdict
from tests.support.followed_log import PEPPERS, START, key_created, key_id, token
from tests.support.verifying import World

GOOD: dict[str, Any] = {
    "keys_url": "http://127.0.0.1:1",
    "service_key": "cvtk_live_key",
    "nats": "nats://user:hidden@127.0.0.1:1",
    "peppers": PEPPERS,
}


def verifier(home: Path, **changes: Any) -> Verifier:
    """One with arguments that can be used, but for the changes."""
    asked: dict[str, Any] = {**GOOD, "folder": home, **changes}
    return Verifier(**asked)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("keys_url", "127.0.0.1:8401"),
        ("keys_url", "nats://127.0.0.1"),
        ("keys_url", None),
        ("service_key", ""),
        ("service_key", Secret("")),
        ("service_key", "two\nlines"),
        ("service_key", None),
        ("prove_key", ""),
        ("nats", "http://127.0.0.1"),
        ("nats", "nats://hidden@:0"),
        ("nats", ""),
        ("nats", None),
        ("peppers", None),
        ("folder", ""),
        ("folder", 7),
        ("spool", ""),
        ("prefixes", "cvtk"),
        ("prefixes", ()),
        ("prefixes", ("Upper",)),
        ("max_staleness", -1),
        ("max_staleness", math.nan),
        ("max_staleness", True),
        ("max_staleness", "300"),
        ("held_seconds", math.inf),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(tmp_path: Path, argument: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{argument}: ") as error:
        verifier(tmp_path, **{argument: value})
    assert "hidden" not in str(error.value)


def test_a_folder_without_peppers_is_named(tmp_path: Path) -> None:
    with pytest.raises(PepperError, match=str(tmp_path)):
        verifier(tmp_path, peppers=tmp_path)


async def test_before_the_keys_are_loaded_it_refuses_and_shows_no_secret(tmp_path: Path) -> None:
    """Neither the key service nor the broker is there."""
    async with verifier(tmp_path) as opened:
        assert opened.state == "starting"
        for waited in (opened.ready(0.05), opened.verify("cvtk_live_x")):
            with pytest.raises(Refusal) as refusal:
                await waited
            assert refusal.value.code == "unavailable"
        assert repr(opened) == "<Verifier starting at 0>"
        assert (tmp_path / "spool").is_dir()


async def test_ready_returns_when_verdicts_can_be_given() -> None:
    world = await World().caught_up()
    await world.verifier.ready(1)
    world.clock.advance(301)
    with pytest.raises(Refusal) as refusal:
        await world.verifier.ready(0.02)
    assert refusal.value.code == "stale"


async def test_a_verdict_tells_what_a_caller_needs() -> None:
    world = World(limit=5)
    world.add(
        key_id(1),
        key_created(
            1, scopes=("read",), name="billing", metadata={"team": "a"}, expires_at=START + 1_500_000
        ),
    )
    await world.caught_up()
    verdict = world.verifier.check(token(1), scopes=["read"])
    assert verdict.valid
    assert (verdict.code, verdict.key_id, verdict.name) == ("VALID", key_id(1), "billing")
    assert verdict.workspace_id is not None
    assert verdict.workspace_id.startswith("ws_")
    assert (verdict.environment, verdict.scopes, verdict.metadata) == ("live", ("read",), {"team": "a"})
    assert verdict.expires_at == datetime.fromtimestamp(START / 1_000_000 + 1.5, UTC)
    assert verdict.rate_limit is not None
    limit = verdict.rate_limit
    assert (limit.limit, limit.remaining, limit.reset % 60) == (5, 4, 0)
    assert (verdict.position, verdict.age_ms) == (2, 0)
    for hidden in (token(1), "billing", "team", PEPPERS.digest(token(1)).hex()):
        assert hidden not in repr(verdict)


async def test_what_is_not_proven_tells_nothing_of_the_key() -> None:
    world = await World().caught_up()
    verdict = world.verifier.check(token(1))
    told = ("key_id", "workspace_id", "name", "environment", "scopes", "expires_at", "metadata", "rate_limit")
    assert verdict == Verdict("NOT_FOUND", position=1)
    assert [getattr(verdict, name) for name in told] == [None] * len(told)


async def test_one_text_is_no_list_of_scopes() -> None:
    world = await World().caught_up()
    with pytest.raises(Refusal) as refusal:
        world.verifier.check(token(1), scopes="read")
    assert (refusal.value.code, refusal.value.field) == ("invalid_request", "scopes")


async def test_verify_waits_for_a_position_and_refuses_one_that_does_not_come() -> None:
    world = World()
    world.add(key_id(1), key_created(1))
    await world.caught_up()
    assert (await world.verifier.verify(token(1), min_position=2, epoch=world.log.epoch.text)).valid
    with pytest.raises(Refusal, match="position_not_reached"):
        await world.verifier.verify(token(1), min_position=3)


def fresh(script: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_light_modules_load_neither_nats_nor_lmdb() -> None:
    light = "client.asgi client.http events token verification verification.answer verification.verdict"
    imports = "; ".join(f"import keyledger.{name}" for name in light.split())
    loaded = fresh(f"import sys; {imports}; print(*sorted({{'nats', 'lmdb'}} & set(sys.modules)))")
    assert loaded == ""
    assert fresh("from keyledger.verification import Verifier; print(Verifier.__name__)") == "Verifier"


def test_a_missing_extra_is_named() -> None:
    without = "import sys; sys.modules['nats'] = None\ntry: from keyledger.verification import Verifier"
    said = fresh(f"{without}\nexcept ImportError as error: print(error)")
    assert said == "keyledger.verification.Verifier needs nats: install keyledger[embedded]"


def test_what_the_package_does_not_have_it_does_not_make_up() -> None:
    import keyledger.verification as package

    with pytest.raises(AttributeError, match="Judge"):
        package.Judge  # noqa: B018 # pyright: ignore
    assert package.__all__ == ["Verifier"]
