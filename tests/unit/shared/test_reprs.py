"""What is shown when an object is printed, logged or stands in a traceback: never a secret."""

from typing import Any

import msgspec
import pytest

from keyledger.digest import Peppers
from keyledger.events import Epoch, NewSecret
from keyledger.server.seal import Sealer
from keyledger.token import Secret, Token, hint, mint, parse
from services.keys.domain.key import Key, evolve
from services.keys.handlers.keys import Minted
from services.keys.handlers.writing import Plan, Written
from services.keys.settings import read

MINTED = mint("cvtk", "live", "key_" + "0" * 22, "s" * 32)
TOKEN = MINTED.reveal()
SEALING, PEPPER = "seal-secret-of-thirty-two-bytes!", b"pepper-of-thirty-two-bytes-long!"
PASSWORD = "hunter2"
PLAN: Plan[Key] = Plan(
    "key_1", "key", "ws_1", "key_2", "req_1", Key, lambda _key, _now: [], evolve, token=TOKEN
)
STATE = Key("key_1", "ws_1", "live", "CI", ("*",), (), 0, "key_2", 1)
PARSED = parse(TOKEN)
SETTINGS = read(
    {
        "KEYLEDGER_POSTGRES": f"postgresql://u:{PASSWORD}@db.test/k",
        "KEYLEDGER_NATS": f"nats://u:{PASSWORD}@nats.test",
        "KEYLEDGER_PEPPERS": "peppers",
        "KEYLEDGER_SEAL_SECRET_FILE": "seal",
    }
)
HOLDERS: list[Any] = [
    MINTED,
    PARSED,
    PLAN,
    Written(STATE, 1, 1, Epoch(1, bytes(8)), True, TOKEN),
    Minted(MINTED, NewSecret(hint(MINTED), {}), "$argon2id$…"),
    Peppers({"p1": PEPPER}, "p1"),
    Sealer(SEALING.encode()),
    SETTINGS,
]


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_nothing_that_holds_a_secret_shows_it(holder: Any) -> None:
    for shown in (repr(holder), str(holder), f"{[holder]}", f"{ {'k': holder} }"):
        for secret in (TOKEN, TOKEN[-20:], SEALING, PEPPER.decode(), PASSWORD):
            assert secret not in shown


def test_a_token_is_named_by_its_key() -> None:
    assert isinstance(PARSED, Token)
    assert repr(PARSED) == "Token(key_" + "0" * 22 + ")"


def test_a_secret_does_not_slip_out_by_being_encoded() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode(Secret("text"))
