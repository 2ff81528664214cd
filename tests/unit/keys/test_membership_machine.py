"""Whatever members, keys and operators ask in whatever order: nobody rises by themselves, an owner stays."""

from __future__ import annotations

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from keyledger.errors import Refusal
from keyledger.events import WorkspaceCreated, WorkspaceText
from services.keys.domain import membership
from services.keys.domain.key import Context
from services.keys.domain.membership import MemberCommand, PutMember, RemoveMember
from services.keys.domain.principal import ADMIN, KEYS_READ, WORKSPACE_WRITE, Principal
from services.keys.domain.roles import OWNER, ROLES, rank, scopes_of
from services.keys.domain.workspace import DEFAULT_RATE_LIMIT, Workspace, evolve

WS = "ws_" + "1" * 22
USERS = [f"user_{number:022}" for number in range(4)]
KEYS = [
    Principal("key_" + "1" * 22, WS, frozenset({WORKSPACE_WRITE})),
    Principal("key_" + "2" * 22, WS, frozenset({KEYS_READ})),
    Principal("key_" + "3" * 22, WS, scopes_of("admin")),
]
OPERATOR = Principal("key_" + "9" * 22, "ws_" + "0" * 22, frozenset({ADMIN}))
users = st.sampled_from(USERS)
any_role = st.sampled_from(ROLES)


class Members(RuleBasedStateMachine):
    """A workspace, a model of its roles, and everybody at once."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = 0
        created = WorkspaceCreated(DEFAULT_RATE_LIMIT, private=WorkspaceText("w"))
        self.workspace = evolve(None, created, Context(WS, WS, OPERATOR.actor, 0))
        self.had_owner = False

    @property
    def roles(self) -> dict[str, str]:
        return {user: member.role for user, member in self.workspace.members.items()}

    def run(self, command: MemberCommand) -> bool:
        """Whether it was done; what a refusal leaves is what was there before."""
        before = self.roles
        self.moment += 1
        try:
            decided = membership.decide(command, self.workspace)
        except Refusal:
            return False
        assert len(decided) <= 1
        for event in decided:
            self.workspace = evolve(self.workspace, event, Context(WS, WS, command.by.actor, self.moment))
        self.had_owner = self.had_owner or OWNER in self.roles.values()
        self.check(command, before)
        return True

    def check(self, command: MemberCommand, before: dict[str, str]) -> None:
        after = self.roles
        changed = {user for user in {*before, *after} if before.get(user) != after.get(user)}
        assert changed <= {command.user}
        if isinstance(command, PutMember):
            assert after[command.user] == command.role
        else:
            assert command.user not in after
        if command.by.admin:
            return
        for user in changed:
            leaves = user == command.by.actor and user not in after
            own = before.get(command.by.actor) if command.by.person else "admin"
            assert own is not None
            most = max(rank(before.get(user, "viewer")), rank(after.get(user, "viewer")))
            assert leaves or (rank(own) >= most and WORKSPACE_WRITE in scopes_of(own))
            if not command.by.person and user in after:
                assert scopes_of(after[user]) <= command.by.scopes

    @rule(by=users, user=users, role=any_role)
    def put_by_user(self, by: str, user: str, role: str) -> None:
        self.run(PutMember(Principal(by, WS, scopes_of(self.roles.get(by))), user, role))

    @rule(by=users, user=users)
    def remove_by_user(self, by: str, user: str) -> None:
        self.run(RemoveMember(Principal(by, WS, scopes_of(self.roles.get(by))), user))

    @rule(by=users, user=users, role=any_role, was=any_role)
    def put_by_one_whose_role_was_read_before(self, by: str, user: str, role: str, was: str) -> None:
        """What was looked up before the state was loaded gives nothing that the state does not."""
        self.run(PutMember(Principal(by, WS, scopes_of(was)), user, role))

    @rule(by=st.sampled_from([*KEYS, OPERATOR]), user=users, role=any_role)
    def put_by_key(self, by: Principal, user: str, role: str) -> None:
        self.run(PutMember(by, user, role))

    @rule(by=st.sampled_from([*KEYS, OPERATOR]), user=users)
    def remove_by_key(self, by: Principal, user: str) -> None:
        self.run(RemoveMember(by, user))

    @invariant()
    def an_owner_stays(self) -> None:
        assert not self.had_owner or OWNER in self.roles.values()

    @invariant()
    def the_state_reads_back_as_it_was_written(self) -> None:
        again = msgspec.json.decode(msgspec.json.encode(self.workspace), type=Workspace)
        assert again == self.workspace


TestMembers = Members.TestCase
