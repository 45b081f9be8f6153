"""From a transaction's state to its subscriber, with workers killed on the way: each event arrives, with one id."""

import signal
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import pytest

from portal.db.engine import run_sql
from portal.notify.jobs import deliver_events, publish_events
from tests.faults.killer import Killer, Point, process, running_killer
from tests.faults.world import World
from tests.pulls import egress_allowed
from tests.webhooks import Delivered, Endpoint, Subscribed, happen, running_endpoint, subscribe

HERE = "127.0.0.0/8"
TELL = ("publish_events", "deliver_events")
CHAIN = ("mined", "confirmed", "reorganised", "finalized")
"""What the chain said, apart from what the engine did about it."""


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PORTAL_EGRESS_ALLOW", HERE)
        with running_killer(tmp_path_factory.mktemp("killer")) as running:
            yield running


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with egress_allowed(HERE), running_endpoint() as running:
        yield running


async def claims_end(webhook: Subscribed) -> None:
    """As if so much time had passed that another worker may deliver what a dead one had begun."""
    await run_sql("UPDATE webhook SET claimed_until = NULL WHERE id = {}", webhook.id)


async def tell(webhook: Subscribed) -> None:
    await claims_end(webhook)
    await publish_events()
    await deliver_events()


def about(came: list[Delivered], subject: str) -> list[str]:
    """The verbs of what arrived about a subject, each event once, in the order of their positions."""
    events = {each.id: each.event for each in came if each.event["subject"]["id"] == subject}
    ordered = sorted(events.values(), key=lambda event: event["position"])
    return [event["type"].partition(".")[2] for event in ordered]


async def test_tx_11_killed_between_the_final_state_and_its_publication_subscribers_hear_of_it_with_one_id(
    world: World, killer: Killer, endpoint: Endpoint
) -> None:
    webhook = await subscribe(world.play.stage.cast.alice, endpoint.url, "transaction.finalized")
    action_id = await world.play.approved_mint()
    await world.work()
    world.pass_blocks(70)
    point = Point("after", "commit", "transaction.finalized")
    await process(killer, world.ahead, point).dies()
    view = await world.view(action_id)
    assert view.status == "finalized"
    assert endpoint.came == []
    [recorded] = await run_sql("SELECT event_id FROM outbox WHERE kind = 'transaction.finalized'")
    # Killed before it is published, then between the request and its note.
    await process(killer, world.ahead, Point("before", "commit", "INSERT INTO event"), jobs=TELL).dies()
    assert endpoint.came == []
    await process(killer, world.ahead, Point("before", "commit", "INSERT INTO delivery_attempt"), jobs=TELL).dies()
    assert len(endpoint.came) == 1
    assert [delivery.status for delivery in await webhook.deliveries()] == ["waiting"]
    await tell(webhook)
    assert [each.id for each in endpoint.came] == [str(recorded["event_id"])] * 2
    assert {each.body for each in endpoint.came} == {endpoint.came[0].body}
    assert endpoint.came[0].event["subject"] == {"kind": "transaction", "id": str(view.id)}
    await tell(webhook)
    assert len(endpoint.came) == 2, "once it is noted, it is not sent again"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_tx_11_killed_at_every_effect_of_telling_each_event_arrives_with_one_id(
    world: World, killer: Killer, endpoint: Endpoint, when: Literal["before", "after"]
) -> None:
    organization_id = world.play.organization_id
    webhook = await subscribe(world.play.stage.cast.alice, endpoint.url, "action.approved")
    subjects, nth, ended = list[str](), 0, -signal.SIGKILL
    while ended == -signal.SIGKILL:
        nth += 1
        subjects.append(f"{nth:02}")
        await happen(organization_id, "action.approved", subjects[-1])
        ended = await process(killer, world.ahead, Point(when, "effect", nth=nth), jobs=TELL).ends()
        await claims_end(webhook)
    assert ended == 0, killer.log()
    assert nth > 4, "too few points were struck to mean anything"
    await tell(webhook)
    ids = defaultdict(set)
    for each in endpoint.came:
        ids[each.event["subject"]["id"]].add((each.id, each.body))
    assert sorted(ids) == subjects
    assert all(len(each) == 1 for each in ids.values()), "a duplicate that its receiver could not know as one"


async def test_tx_70_subscribers_are_told_of_a_reorganisation_by_an_event_of_its_own(
    world: World, endpoint: Endpoint
) -> None:
    webhook = await subscribe(world.play.stage.cast.alice, endpoint.url, "transaction.*")
    action_id = await world.play.approved_mint()
    await world.work()
    world.pass_blocks(4)
    await world.work()
    world.node.rpc("anvil_reorg", 5, [])
    await world.work()
    await tell(webhook)
    view = await world.view(action_id)
    verbs = about(endpoint.came, str(view.id))
    assert "reorganised" in verbs
    assert verbs.index("mined") < verbs.index("reorganised")
    [undone] = [each.event for each in endpoint.came if each.event["type"] == "transaction.reorganised"]
    assert undone["data"]["action_id"] == str(action_id)
    await world.finish_ok(action_id)
    await tell(webhook)
    verbs = [verb for verb in about(endpoint.came, str(view.id)) if verb in CHAIN]
    assert verbs[verbs.index("reorganised") :] == ["reorganised", "mined", "confirmed", "finalized"]
    assert len(endpoint.came) == len({each.id for each in endpoint.came})
