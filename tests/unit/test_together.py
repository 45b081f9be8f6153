"""Work that requests share: who shares a round, who waits for whom, and who is refused."""

import asyncio
from collections.abc import Sequence

import pytest

from portal.errors import Unavailable
from portal.together import ENOUGH, Together


class Rounds:
    """Doubles numbers and remembers its rounds; each takes as long as `gate` is closed."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def work(self, numbers: list[int]) -> Sequence[int | Exception]:
        self.seen.append(numbers)
        self.begun.set()
        await self.gate.wait()
        return [ValueError(f"{number} is bad") if number < 0 else 2 * number for number in numbers]


async def test_those_that_arrive_one_turn_after_another_share_a_round() -> None:
    rounds = Rounds()
    shared: Together[int, int] = Together(rounds.work)

    async def arrive(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        return await shared.do(number)

    assert await asyncio.gather(*(arrive(number) for number in range(10))) == list(range(0, 20, 2))
    assert rounds.seen == [list(range(10))]


async def test_a_round_does_not_wait_for_ever_while_more_arrive() -> None:
    rounds = Rounds()
    shared: Together[int, int] = Together(rounds.work)

    async def arrive(number: int) -> int:
        for _ in range(number):
            await asyncio.sleep(0)
        return await shared.do(number)

    await asyncio.gather(*(arrive(number) for number in range(ENOUGH * 3)))
    assert len(rounds.seen) >= 2
    assert len(rounds.seen[0]) <= ENOUGH + 1


async def test_what_arrives_during_a_round_is_done_by_the_next_one_in_bounds() -> None:
    rounds = Rounds()
    shared: Together[int, int] = Together(rounds.work, most_items=3, most_weight=10)
    rounds.gate.clear()
    first = asyncio.create_task(shared.do(1))
    await rounds.begun.wait()
    later = [asyncio.create_task(shared.do(number, weight)) for number, weight in ((2, 4), (3, 4), (4, 4), (5, 99))]
    await asyncio.sleep(0)
    rounds.gate.set()
    assert await asyncio.gather(first, *later) == [2, 4, 6, 8, 10]
    assert rounds.seen == [[1], [2, 3], [4], [5]], "too heavy for a round together, and one too heavy for any"


async def test_one_bad_item_and_one_that_gives_up_take_nobody_along() -> None:
    rounds = Rounds()
    shared: Together[int, int] = Together(rounds.work)
    rounds.gate.clear()
    waiting = [asyncio.create_task(shared.do(number)) for number in (1, -1, 3)]
    await rounds.begun.wait()
    waiting[0].cancel()
    rounds.gate.set()
    gave_up, bad, good = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(gave_up, asyncio.CancelledError)
    assert isinstance(bad, ValueError)
    assert good == 6
    await shared.settle()


async def test_beyond_what_may_wait_it_refuses_at_once() -> None:
    rounds = Rounds()
    shared: Together[int, int] = Together(rounds.work, most_waiting=10)
    rounds.gate.clear()
    first = asyncio.create_task(shared.do(1))
    await rounds.begun.wait()
    second = asyncio.create_task(shared.do(2, 8))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await shared.do(3, 8)
    rounds.gate.set()
    assert await asyncio.gather(first, second) == [2, 4]


async def test_a_round_waits_a_moment_for_those_that_are_expected_and_not_for_ever() -> None:
    rounds: list[list[int]] = []

    async def work(items: list[int]) -> list[int]:
        rounds.append(items)
        return items

    together: Together[int, int] = Together(work, expected=lambda: 3)

    async def later(item: int, turns: int) -> int:
        for _ in range(turns):
            await asyncio.sleep(0)
        return await together.do(item)

    await asyncio.gather(together.do(1), later(2, 10), later(3, 20))
    await together.do(4)
    assert [sorted(each) for each in rounds] == [[1, 2, 3], [4]]
