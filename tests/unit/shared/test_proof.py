"""Proofs: Argon2id as designed, in threads, bounded, and never in the way of the event loop."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from argon2 import Type, extract_parameters

from keyledger.errors import Refusal
from keyledger.server.proof import Prover


@pytest.fixture
async def prover() -> AsyncIterator[Prover]:
    made = Prover(threads=2, queue=4)
    yield made
    made.close()


async def test_a_generated_secrets_proof_is_small_and_an_imported_ones_is_owasps(prover: Prover) -> None:
    small = extract_parameters(await prover.prove("secret"))
    large = extract_parameters(await prover.prove("secret", imported=True))
    assert (small.type, small.memory_cost, small.time_cost, small.parallelism) == (Type.ID, 1024, 1, 1)
    assert (large.type, large.memory_cost, large.time_cost, large.parallelism) == (Type.ID, 19_456, 2, 1)


async def test_a_proof_is_of_its_secret_alone(prover: Prover) -> None:
    for imported in (False, True):
        proof = await prover.prove("secret", imported=imported)
        assert await prover.check(proof, "secret")
        assert not await prover.check(proof, "Secret")
        assert not await prover.check(proof, "")
        assert "secret" not in proof


async def test_the_same_secret_has_another_proof_each_time(prover: Prover) -> None:
    assert await prover.prove("secret") != await prover.prove("secret")


@pytest.mark.parametrize("proof", ["", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$x$y", "plain", "$2b$12$abc"])
async def test_a_proof_that_cannot_be_read_proves_nothing(prover: Prover, proof: str) -> None:
    assert await prover.check(proof, "secret") is False


async def test_beyond_the_bound_the_answer_is_busy_and_afterwards_there_is_room_again(prover: Prover) -> None:
    asked = [asyncio.ensure_future(prover.prove("secret", imported=True)) for _ in range(7)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert [(refusal.code, refusal.retry_after) for refusal in refused] == [("busy", 1)]
    assert len([outcome for outcome in outcomes if isinstance(outcome, str)]) == 6
    assert await prover.check(await prover.prove("secret"), "secret")


async def test_a_check_takes_a_place_as_a_proof_does(prover: Prover) -> None:
    proof = await prover.prove("secret", imported=True)
    checks = [asyncio.ensure_future(prover.check(proof, "secret")) for _ in range(7)]
    outcomes = await asyncio.gather(*checks, return_exceptions=True)
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Refusal)] == ["busy"]
    assert outcomes.count(True) == 6


async def test_a_caller_who_gives_up_gives_its_place_back(prover: Prover) -> None:
    asked = [asyncio.ensure_future(prover.prove("secret", imported=True)) for _ in range(6)]
    await asyncio.sleep(0)
    for one in asked:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    assert await prover.prove("secret")


async def test_the_event_loop_goes_on_while_secrets_are_proven(prover: Prover) -> None:
    """Other callers take turns while one proof is made; were it made in the loop, none would."""
    proving = asyncio.ensure_future(prover.prove("secret", imported=True))
    turns = 0
    while not proving.done():
        await asyncio.sleep(0)
        turns += 1
    assert proving.result()
    assert turns > 10
