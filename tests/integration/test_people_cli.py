"""`keyledger people` as an operator runs it, on the dashboard's own tables."""

from pathlib import Path

from services.dashboard.adapters.people import PostgresPeople
from services.dashboard.adapters.store import Database
from services.dashboard.domain.sign_in import Identity
from services.dashboard.ports import Person
from tests.support import servers_fresh as fresh
from tests.support.accounts_postgres import prepare
from tests.support.command import Done, keyledger

ADA, GRACE = "user_" + "1" * 22, "user_" + "2" * 22


async def test_a_person_is_found_and_erased_once(postgres_server: str, tmp_path: Path) -> None:
    async with fresh.database(postgres_server) as admin:
        database = Database(await prepare(admin))
        people = PostgresPeople(database)

        async def run(*words: str) -> Done:
            return await keyledger("people", *words, home=tmp_path, KEYLEDGER_POSTGRES=admin)

        async with database.open():
            for user, name in ((ADA, "Ada"), (GRACE, "Grace [x]")):
                mail = f"{name[:3].lower()}@example.org"
                await people.arrive(Identity("https://id.example", user, name, mail), user, 1)
            told = (await run("find", "EXAMPLE")).good()
            for shown in (ADA, "ada@example.org", GRACE, "Grace [x]"):
                assert shown in told
            assert ADA in (await run("erase", ADA)).good()
            assert await people.known([ADA, GRACE]) == {
                ADA: Person(ADA, None, None), GRACE: Person(GRACE, "Grace [x]", "gra@example.org"),
            }  # fmt: skip
        assert "erased before" in (await run("erase", ADA)).failed()
        assert "nobody" in (await run("find", "ada")).failed()
        assert (
            (await run("erase", "user_1")).failed().endswith("user: an id is user_ and 22 letters and digits")
        )
