"""Whatever is new in a state is either told in a snapshot or, knowingly, not."""

import msgspec

from keyledger.wire import KeyBody, SecretState, WorkspaceBody
from services.keys.domain.key import Key
from services.keys.domain.secrets import Secret
from services.keys.domain.workspace import Workspace

#: Told beside the body, or nothing that a check depends on.
ELSEWHERE = {"id", "workspace_id", "version", "created_at", "created_by", "system", "members"}
NOT_TOLD = {"proof", "hint", "created_at"}


def test_a_snapshot_tells_every_field_of_a_state_that_a_check_may_depend_on() -> None:
    """A new field needs a look: a meaning that followers do not know raises SNAPSHOT_MEANING."""
    assert set(Key.__struct_fields__) - ELSEWHERE == set(KeyBody.__struct_fields__)
    assert set(Workspace.__struct_fields__) - ELSEWHERE == set(WorkspaceBody.__struct_fields__)
    assert set(Secret.__struct_fields__) - NOT_TOLD == set(SecretState.__struct_fields__)


def test_what_a_state_leaves_out_means_the_same_in_a_snapshot() -> None:
    secret = Secret("hint", {"p1": b"1"}, 5)
    key = Key("key_1", "ws_1", "live", "n", ("*",), (secret,), 5, "system", 1)
    told = msgspec.json.decode(msgspec.json.encode(key), type=KeyBody)
    for field in KeyBody.__struct_fields__:
        if field != "secrets":
            assert getattr(told, field) == getattr(key, field), field
    for field in SecretState.__struct_fields__:
        assert getattr(told.secrets[0], field) == getattr(secret, field), field
