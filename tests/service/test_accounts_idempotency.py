"""The same POST twice: one is carried out, the other gets its answer."""

import asyncio
import hashlib
from datetime import timedelta

import pytest
import time_machine

from portal import clock
from portal.accounts.idempotency import (
    Fresh,
    IdempotencyKeyInUse,
    IdempotencyKeyReused,
    Replay,
    begin,
    finish,
    prune,
    release,
)
from portal.errors import InputInvalid

ONE = hashlib.sha256(b"POST /api/v1/rules {1}").digest()
OTHER = hashlib.sha256(b"POST /api/v1/rules {2}").digest()


async def claim(caller: str = "ada", key: str = "k", fingerprint: bytes = ONE) -> Fresh:
    answer = await begin(caller, key, fingerprint)
    assert isinstance(answer, Fresh)
    return answer


@pytest.mark.parametrize("status", [201, 409])
async def test_a_finished_request_is_answered_the_same_again(database: None, status: int) -> None:
    await finish(await claim(), status=status, content_type="application/json", body=b'{"\xc3\xa9": 1}')
    for _ in range(2):
        assert await begin("ada", "k", ONE) == Replay(status, "application/json", b'{"\xc3\xa9": 1}')


async def test_another_request_with_the_same_key_is_refused_running_or_finished(database: None) -> None:
    first = await claim()
    with pytest.raises(IdempotencyKeyReused) as refused:
        await begin("ada", "k", OTHER)
    assert refused.value.status == 422
    await finish(first, status=201, content_type="application/json", body=b"{}")
    with pytest.raises(IdempotencyKeyReused):
        await begin("ada", "k", OTHER)


async def test_of_many_at_once_one_is_carried_out(database: None) -> None:
    answers = await asyncio.gather(*(begin("ada", "k", ONE) for _ in range(10)), return_exceptions=True)
    assert len([answer for answer in answers if isinstance(answer, Fresh)]) == 1
    refusals = [answer for answer in answers if isinstance(answer, IdempotencyKeyInUse)]
    assert len(refusals) == 9
    assert refusals[0].status == 409
    assert refusals[0].retry_after_seconds == 1


async def test_two_callers_may_use_the_same_key(database: None) -> None:
    await finish(await claim(caller="ada"), status=201, content_type="application/json", body=b"hers")
    await claim(caller="bob")


async def test_a_released_key_is_free_again(database: None) -> None:
    await release(await claim())
    await claim(fingerprint=OTHER)


async def test_an_answer_is_not_released(database: None) -> None:
    first = await claim()
    await finish(first, status=201, content_type="application/json", body=b"{}")
    await release(first)
    assert isinstance(await begin("ada", "k", ONE), Replay)


async def test_a_request_that_died_does_not_hold_its_key_for_ever_nor_finish_late(database: None) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        dead = await claim()
        traveller.shift(timedelta(seconds=119))
        with pytest.raises(IdempotencyKeyInUse):
            await begin("ada", "k", ONE)
        traveller.shift(timedelta(seconds=2))
        with pytest.raises(IdempotencyKeyReused):
            await begin("ada", "k", OTHER)
        alive = await claim()
        await finish(dead, status=500, content_type="text/plain", body=b"late")
        await finish(alive, status=201, content_type="application/json", body=b"{}")
        assert await begin("ada", "k", ONE) == Replay(201, "application/json", b"{}")


async def test_an_answer_is_kept_for_a_day(database: None) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        await finish(await claim(), status=201, content_type="application/json", body=b"{}")
        traveller.shift(timedelta(hours=24))
        assert isinstance(await begin("ada", "k", ONE), Replay)
        assert await prune() == 0
        traveller.shift(timedelta(seconds=1))
        await claim(fingerprint=OTHER)
        traveller.shift(timedelta(hours=25))
        assert await prune() == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b", "a\nb"])
async def test_what_is_no_key(database: None, key: str) -> None:
    with pytest.raises(InputInvalid):
        await begin("ada", key, ONE)
