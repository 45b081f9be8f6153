"""Lanes as an operator sees them, and the alarm for one that does not move."""

from datetime import timedelta
from uuid import UUID

import pytest

from portal.audit.queries import list_entries
from portal.db.engine import run_sql
from portal.errors import NotFound
from portal.transactions.controls.pauses import pause, resume
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.lanes.queries import get_lane, list_lanes, list_nonces, list_stuck_lanes
from portal.transactions.lanes.watchdog import STUCK_AFTER, watch_lanes
from portal.transactions.service import queue_approved
from portal.transactions.tables import PauseScope
from tests.actions import make_signer, register_points
from tests.transactions import Play


async def let_time_pass() -> None:
    """All that happened so far was longer ago than a head may stand still."""
    await run_sql(
        """UPDATE transaction SET queued_at = queued_at - {}::interval, broadcast_at = broadcast_at - {}::interval,
                                  mined_at = mined_at - {}::interval""",
        *[STUCK_AFTER + timedelta(seconds=5)] * 3,
    )


async def sole_lane(play: Play) -> UUID:
    [lane] = (await list_lanes(play.organization_id)).items
    return lane.id


async def test_a_lane_says_what_its_head_waits_for_and_who_comes_after(play: Play) -> None:
    assert (await list_lanes(play.organization_id)).items == []
    first, second = await play.sent_mint(), await play.sent_mint()
    await play.approved_mint()
    await queue_approved()
    [lane] = (await list_lanes(play.organization_id)).items
    head = await play.view(first)
    assert head.nonce is not None
    assert (lane.signer_name, lane.chain_name) == ("Treasury", "Local chain")
    assert (lane.in_flight, lane.in_flight_limit, lane.queued) == (2, 16, 1)
    assert lane.next_nonce == head.nonce + 2
    assert lane.head == head
    assert lane.waits_for == f"Nonce {head.nonce}: Sent; waits for a block."
    assert lane.held_by is None, "the lease was given back"

    nonces = (await list_nonces(play.organization_id, lane.id)).items
    assert [each.action_id for each in nonces] == [second, first]
    assert all(len(each.attempts) == 1 for each in nonces)

    play.node.mine()
    await watch_chains()
    await run_lanes()
    play.node.mine()
    await watch_chains()
    idle = await get_lane(play.organization_id, lane.id)
    assert (idle.in_flight, idle.queued, idle.head, idle.still_since) == (0, 0, None, None)
    assert idle.waits_for == "Nothing waits here."


async def test_the_nonces_are_paged_by_nonce(play: Play) -> None:
    await play.approved_mints(5)
    await run_lanes()
    lane_id = await sole_lane(play)
    seen, cursor = [], None
    while True:
        page = await list_nonces(play.organization_id, lane_id, cursor=cursor, limit=2)
        seen += [each.nonce for each in page.items]
        if not (cursor := page.next_cursor):
            break
    start = seen[-1]
    assert start is not None
    assert seen == [start + 4, start + 3, start + 2, start + 1, start]


async def test_a_lane_of_another_organisation_is_not_there(play: Play) -> None:
    await play.sent_mint()
    lane_id = await sole_lane(play)
    dave = play.stage.cast.dave.actor.organization_id
    with pytest.raises(NotFound):
        await get_lane(dave, lane_id)
    assert (await list_lanes(dave)).items == []
    assert (await list_nonces(dave, lane_id)).items == []


async def test_a_head_that_does_not_move_is_an_alarm_once_and_over_when_it_moves(play: Play) -> None:
    action_id = await play.sent_mint()
    assert await watch_lanes() == 0
    await let_time_pass()
    assert await watch_lanes() == 1
    assert await watch_lanes() == 0
    [stuck] = await list_stuck_lanes(play.organization_id)
    head = await play.view(action_id)
    assert stuck.head == head
    assert stuck.stuck_since == head.broadcast_at
    play.node.mine()
    await watch_chains()
    assert await watch_lanes() == 1
    assert await list_stuck_lanes(play.organization_id) == []
    entries = await list_entries(play.organization_id, subject_kind="lane", subject_id=str(stuck.id))
    assert [entry.kind for entry in reversed(entries.items)] == ["lane.stuck", "lane.moving"]
    assert entries.items[1].detail["transaction_id"] == str(head.id)


async def test_a_lane_that_moves_is_none_however_long_its_head_was_out(play: Play) -> None:
    """What counts is since when it leads."""
    first, second = await play.sent_mint(), await play.sent_mint()
    await let_time_pass()
    await run_sql("UPDATE transaction SET status = 'mined', mined_at = now() WHERE action = {}", first)
    assert await watch_lanes() == 0
    [lane] = (await list_lanes(play.organization_id)).items
    assert lane.head
    assert lane.head.action_id == second
    await let_time_pass()
    assert await watch_lanes() == 1


async def test_a_stuck_lane_stops_no_other(play: Play) -> None:
    held = await play.sent_mint()
    await let_time_pass()
    assert await watch_lanes() == 1
    other_id, other = await make_signer(play.stage.cast, "Second")
    contract_id = await register_points(play.stage.cast, play.node, other_id, owner_address=other)
    moving = await play.approved_mint(contract_id=contract_id)
    await run_lanes()
    assert (await play.view(moving)).broadcast_at
    assert await watch_lanes() == 0
    stuck = {lane.signer_name: lane.stuck_since for lane in (await list_lanes(play.organization_id)).items}
    assert stuck == {"Treasury": (await play.view(held)).broadcast_at, "Second": None}


async def test_what_is_paused_on_purpose_is_no_alarm(play: Play) -> None:
    cast = play.stage.cast
    await play.approved_mint()
    await queue_approved()
    await let_time_pass()
    begun = await pause(cast.alice.actor, PauseScope.ORGANIZATION, None, "To look into it.")
    assert await watch_lanes() == 0
    [lane] = (await list_lanes(play.organization_id)).items
    assert lane.waits_for.startswith("Everything is paused by alice@example.org")
    await resume(cast.alice.actor, begun.id)
    await resume(cast.bob.actor, begun.id)
    assert await watch_lanes() == 1
