"""Deliveries: signed, at least once, in order, tried again, and never where they must not go. Real HTTP, real rows."""

import asyncio
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import time_machine
from standardwebhooks import WebhookVerificationError

from portal import clock
from portal.db.engine import run_sql
from portal.notify import delivering, posting
from portal.notify.jobs import deliver_events
from portal.notify.queries import get_delivery
from portal.notify.schedule import MOST_ATTEMPTS, WAITS, wait_after
from portal.notify.schemas import SecretInput
from portal.notify.service import add_secret, disable_webhook, enable_webhook, end_secret, redeliver, send_test
from tests.people import Cast
from tests.pulls import egress_allowed
from tests.webhooks import Delivered, Endpoint, Reply, happen, running_endpoint, subscribe

APPROVED = "action.approved"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with egress_allowed("127.0.0.0/8"), running_endpoint() as running:
        yield running


def about(came: list[Delivered]) -> list[str]:
    return [each.event["subject"]["id"] for each in came]


# What arrives


async def test_an_event_arrives_as_the_documents_say_and_its_signature_is_right(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url, "action.*")
    await happen(cast.organization_id, APPROVED, "one")
    await deliver_events()
    [came] = endpoint.came
    came.verify(webhook.secret)
    [delivery] = await webhook.deliveries()
    assert came.id == came.event["id"] == str(delivery.event_id)
    assert abs(int(came.headers["webhook-timestamp"]) - time.time()) < 5
    assert came.headers["content-type"] == "application/json"
    assert came.event == {
        "id": came.id,
        "type": APPROVED,
        "position": 1,
        "timestamp": came.event["timestamp"],
        "organization_id": str(cast.organization_id),
        "subject": {"kind": "action", "id": "one"},
        "correlation_id": came.event["correlation_id"],
        "data": {"summary": "one"},
    }
    assert (delivery.status, delivery.attempts, delivery.status_code, delivery.error) == ("delivered", 1, 200, None)
    assert (await webhook.view()).delivered_at
    with pytest.raises(WebhookVerificationError):
        came.verify((await subscribe(cast.alice, endpoint.url)).secret)


async def test_only_what_is_subscribed_to_arrives_and_only_of_the_own_organisation(
    cast: Cast, endpoint: Endpoint
) -> None:
    wants = {"exact": ["action.approved"], "noun": ["action.*"], "all": ["*"], "other": ["action.rejected"]}
    ids = {name: (await subscribe(cast.alice, f"{endpoint.url}/{name}", *types)).id for name, types in wants.items()}
    await subscribe(cast.dave, f"{endpoint.url}/dave", "*")
    assert len(ids) == 4
    await happen(cast.organization_id, APPROVED, "one")
    await deliver_events()
    assert sorted(each.path for each in endpoint.came) == ["/hook/all", "/hook/exact", "/hook/noun"]


async def test_a_webhook_gets_what_happens_from_its_making_on(cast: Cast, endpoint: Endpoint) -> None:
    await happen(cast.organization_id, APPROVED, "before")
    await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, APPROVED, "after")
    await deliver_events()
    assert about(endpoint.came) == ["after"]


async def test_a_test_goes_to_the_one_webhook_whatever_it_subscribes_to(cast: Cast, endpoint: Endpoint) -> None:
    asked = await subscribe(cast.alice, f"{endpoint.url}/asked", "action.rejected")
    await subscribe(cast.alice, f"{endpoint.url}/other", "*")
    await send_test(cast.alice.actor, asked.id)
    await happen(cast.organization_id, APPROVED)
    await deliver_events()
    [came] = endpoint.came
    assert (came.path, came.event["type"]) == ("/hook/asked", "webhook.test")
    came.verify(asked.secret)


# Secrets


async def test_during_the_overlap_both_secrets_verify_and_then_only_the_new_one(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    _, new = await add_secret(cast.alice.actor, webhook.id, SecretInput(overlap_seconds=3600))
    await happen(cast.organization_id, APPROVED, "during")
    await deliver_events()
    endpoint.came[-1].verify(webhook.secret)
    endpoint.came[-1].verify(new)
    with time_machine.travel(clock.now() + timedelta(seconds=3601)):
        await happen(cast.organization_id, APPROVED, "after")
        await deliver_events()
        endpoint.came[-1].verify(new)
        with pytest.raises(WebhookVerificationError):
            endpoint.came[-1].verify(webhook.secret)


async def test_an_ended_secret_signs_nothing_from_the_next_attempt_on(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    view, new = await add_secret(cast.alice.actor, webhook.id, SecretInput(overlap_seconds=None))
    await end_secret(cast.alice.actor, webhook.id, view.secrets[-1].id)
    await happen(cast.organization_id, APPROVED, "one")
    await deliver_events()
    endpoint.came[-1].verify(new)
    with pytest.raises(WebhookVerificationError):
        endpoint.came[-1].verify(webhook.secret)


# Failures


@pytest.mark.parametrize(
    ("status", "says"), [(500, "answers HTTP 500"), (404, "answers HTTP 404"), (302, "redirects (HTTP 302)")]
)
async def test_what_is_no_success_is_tried_again_with_the_same_id(
    cast: Cast, endpoint: Endpoint, status: int, says: str
) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    endpoint.say = lambda _: Reply(status, {"Location": f"{endpoint.url}/elsewhere"}, b"no, \x00sorry")
    await happen(cast.organization_id, APPROVED, "one")
    await deliver_events()
    [delivery] = await webhook.deliveries()
    assert delivery.error is not None
    assert says in delivery.error
    assert (delivery.status, delivery.attempts) == ("waiting", 1)
    assert delivery.due_at is not None
    assert timedelta(seconds=3) < delivery.due_at - clock.now() < timedelta(seconds=7)
    [attempt] = (await get_delivery(cast.organization_id, webhook.id, delivery.id)).log
    assert attempt.response_body == "no, \ufffdsorry"
    endpoint.say = lambda _: Reply(204, body=b"")
    await webhook.due_now()
    await deliver_events()
    first, second = endpoint.came
    assert first.id == second.id
    assert [each.path for each in endpoint.came] == ["/hook", "/hook"], "a redirect is not followed"
    second.verify(webhook.secret)
    [delivery] = await webhook.deliveries()
    assert (delivery.status, delivery.attempts) == ("delivered", 2)


async def test_the_schedule_takes_about_three_days_and_then_it_is_given_up(cast: Cast, endpoint: Endpoint) -> None:
    total = sum((wait for n in range(1, MOST_ATTEMPTS) if (wait := wait_after(n, 0))), timedelta())
    assert total == timedelta(hours=75, minutes=35, seconds=5)
    assert all((wait_after(n, 1) or timedelta()) <= wait * 1.1 for n, wait in enumerate(WAITS, start=1))
    webhook = await subscribe(cast.alice, endpoint.url)
    endpoint.say = lambda _: Reply(500)
    await happen(cast.organization_id, APPROVED, "one")
    for _ in range(MOST_ATTEMPTS + 1):
        await deliver_events()
        await webhook.due_now()
    assert len(endpoint.came) == MOST_ATTEMPTS
    [delivery] = await webhook.deliveries()
    assert (delivery.status, delivery.attempts, delivery.due_at) == ("failed", MOST_ATTEMPTS, None)
    assert (await webhook.view()).status == "active"


async def test_one_that_fails_holds_up_no_other_even_of_its_subject(cast: Cast, endpoint: Endpoint) -> None:
    await subscribe(cast.alice, endpoint.url)
    endpoint.say = lambda came: Reply(500 if came.event["position"] == 1 else 200)
    await happen(cast.organization_id, APPROVED, "same", "same", "other")
    await deliver_events()
    assert sorted(about(endpoint.came)) == ["other", "same", "same"]


async def test_while_the_receiver_is_down_for_an_hour_little_is_spent_and_then_all_arrives_in_order(
    cast: Cast, endpoint: Endpoint
) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    port, subjects = endpoint.port, [f"{number:02}" for number in range(30)]
    endpoint.stop()
    start = clock.now()
    with time_machine.travel(start, tick=True) as moving:
        await happen(cast.organization_id, APPROVED, *subjects)
        for minute in range(60):
            moving.move_to(start + timedelta(minutes=minute))
            await deliver_events()
        down = await webhook.view()
        assert down.failing_since is not None
        assert down.waiting == 30
        [counted] = await run_sql("SELECT count(*) FROM delivery_attempt")
        assert counted["count"] <= 70, "a receiver that is not there is not asked for each event"
        with running_endpoint(port) as back:
            moving.move_to(start + timedelta(minutes=62))
            await deliver_events()
            assert sorted(about(back.came)) == subjects, "all of it, as soon as the receiver is back"
    begun = await run_sql(
        """SELECT e.subject_id
           FROM delivery_attempt a JOIN delivery d ON d.id = a.delivery JOIN event e ON e.id = d.event
           WHERE a.error IS NULL ORDER BY a.started_at"""
    )
    # But for the one that found out; when those under way at one time arrive is the network's affair.
    _, *others = [row["subject_id"] for row in begun]
    assert others == sorted(others), "all of it is begun in order"
    up = await webhook.view()
    assert (up.failing_since, up.rest_until, up.waiting) == (None, None, 0)


async def test_a_slow_receiver_keeps_no_other_waiting_and_counts_as_failed(
    cast: Cast, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posting, "ANSWER_SECONDS", 1)
    slow = await subscribe(cast.alice, f"{endpoint.url}/slow")
    await subscribe(cast.alice, f"{endpoint.url}/fast")
    endpoint.say = lambda came: Reply(wait_seconds=1.5 if came.path == "/hook/slow" else 0)
    started = time.monotonic()
    await happen(cast.organization_id, APPROVED, "one", "two")
    await deliver_events()
    fast = [each for each in endpoint.came if each.path == "/hook/fast"]
    assert sorted(about(fast)) == ["one", "two"]
    assert all(each.at - started < 1 for each in fast)
    delivery = (await slow.deliveries())[0]
    assert delivery.error is not None
    assert "does not answer within 1 seconds" in delivery.error
    assert (await slow.view()).rest_until


async def test_410_disables_the_webhook_with_an_audit_entry(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    endpoint.say = lambda _: Reply(410)
    await happen(cast.organization_id, APPROVED, "one", "two")
    await deliver_events()
    view = await webhook.view()
    assert view.status == "disabled"
    assert view.disabled_because is not None
    assert "410" in view.disabled_because
    entries = await run_sql("SELECT actor_kind, detail FROM audit_entry WHERE kind = 'webhook.disabled'")
    assert len(entries) == 1
    assert entries[0]["actor_kind"] == "system"
    came = len(endpoint.came)
    await happen(cast.organization_id, APPROVED, "three")
    await webhook.due_now()
    await deliver_events()
    assert len(endpoint.came) == came, "nothing is sent to it any more"


async def test_a_webhook_that_failed_for_five_days_is_disabled(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    endpoint.say = lambda _: Reply(500)
    start = clock.now()
    for days in (0, 4.9, 5.1):
        with time_machine.travel(start + timedelta(days=days)):
            assert (await webhook.view()).status == "active"
            await happen(cast.organization_id, APPROVED, f"day {days}")
            await deliver_events()
    view = await webhook.view()
    assert view.status == "disabled"
    assert view.disabled_because is not None
    assert view.disabled_because.startswith("Nothing could be delivered for 5 days.")
    assert len(await run_sql("SELECT 1 FROM audit_entry WHERE kind = 'webhook.disabled'")) == 1


async def test_a_success_ends_the_count_of_days(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    start = clock.now()
    for days, status in ((0, 500), (3, 200), (5.5, 500), (8, 500)):
        endpoint.say = lambda _, status=status: Reply(status)  # type: ignore[misc]
        with time_machine.travel(start + timedelta(days=days)):
            await happen(cast.organization_id, APPROVED, f"day {days}")
            await deliver_events()
    assert (await webhook.view()).status == "active"


@pytest.mark.parametrize("in_words", [False, True])
async def test_retry_after_is_honoured(cast: Cast, endpoint: Endpoint, in_words: bool) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    until = datetime.now(UTC) + timedelta(seconds=600)
    value = format_datetime(until, usegmt=True) if in_words else "600"
    endpoint.say = lambda _: Reply(429, {"Retry-After": value})
    await happen(cast.organization_id, APPROVED, "one", "two")
    await deliver_events()
    assert len(endpoint.came) <= 2, "one that was under way may still have come"
    view, first = await webhook.view(), (await webhook.deliveries())[0]
    for moment in (view.rest_until, first.due_at):
        assert moment is not None
        assert abs(moment - until) < timedelta(seconds=5)
    await deliver_events()
    assert len(endpoint.came) <= 2, "nothing is sent while the receiver rests"


@pytest.mark.parametrize("value", ["1 Jan 2020 00:00:00 +999999999999999", "9" * 40, "tomorrow"])
async def test_whatever_a_receiver_asks_for_counts_as_an_attempt(cast: Cast, endpoint: Endpoint, value: str) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    endpoint.say = lambda _: Reply(503, {"Retry-After": value})
    await happen(cast.organization_id, APPROVED, "one")
    await deliver_events()
    [delivery] = await webhook.deliveries()
    assert (delivery.attempts, delivery.status_code) == (1, 503)
    assert delivery.due_at
    assert delivery.due_at < datetime.now(UTC) + timedelta(days=1, seconds=5)


# Where it may go


async def test_no_private_address_is_connected_to(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, APPROVED, "one")
    with egress_allowed(""):
        await deliver_events()
    assert endpoint.came == []
    [delivery] = await webhook.deliveries()
    assert delivery.error is not None
    assert "no connection is made" in delivery.error
    await run_sql("UPDATE webhook SET url = {}", f"https://localhost:{endpoint.port}/hook")
    await webhook.due_now()
    with egress_allowed(""):
        await deliver_events()
    assert endpoint.came == []
    [delivery] = await webhook.deliveries()
    assert delivery.error is not None
    assert delivery.error.startswith("localhost has the address")


# Order, duplicates, many workers


async def test_events_of_one_subject_never_overtake_each_other(cast: Cast, endpoint: Endpoint) -> None:
    await subscribe(cast.alice, endpoint.url)
    ended: list[int] = []

    def say(came: Delivered) -> Reply:
        if came.event["subject"]["id"] == "slow":
            time.sleep(0.15)
        ended.append(came.event["position"])
        return Reply()

    endpoint.say = say
    await happen(cast.organization_id, APPROVED, "slow", "a", "slow", "b", "slow", "c")
    await deliver_events()
    assert [each.event["position"] for each in endpoint.came if each.event["subject"]["id"] == "slow"] == [1, 3, 5]
    assert ended.index(1) < ended.index(3) < ended.index(5)
    assert ended.index(2) < ended.index(1), "another subject does not wait"
    starts = [each.event["position"] for each in sorted(endpoint.came, key=lambda each: each.at)]
    assert sorted(starts) == [1, 2, 3, 4, 5, 6]


async def test_receivers_that_are_away_leave_turns_for_those_that_are_there(cast: Cast, endpoint: Endpoint) -> None:
    away = [await subscribe(cast.alice, f"{endpoint.url}/{place}") for place in range(delivering.AWAY_AT_ONCE + 2)]
    await run_sql("UPDATE webhook SET rests = 1, rest_until = now() - interval '1 s'")
    there = await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, APPROVED, "one")
    claimed = [each for _ in range(len(away) + 2) if (each := await delivering.claim_next())]
    assert len(claimed) == delivering.AWAY_AT_ONCE + 1
    assert there.id in claimed
    await asyncio.gather(*map(delivering.deliver, claimed))
    await deliver_events()
    assert len(endpoint.came) == len(away) + 1, "each of them has its turn"


async def test_two_workers_do_not_deliver_to_one_webhook_at_once(cast: Cast, endpoint: Endpoint) -> None:
    await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, APPROVED, *(str(number) for number in range(40)))
    first, second = await delivering.claim_next(), await delivering.claim_next()
    assert first is not None
    assert second is None
    await asyncio.gather(delivering.deliver(first), deliver_events())
    await deliver_events()
    assert len(endpoint.came) == len({each.id for each in endpoint.came}) == 40


async def test_what_a_worker_left_unnoted_is_delivered_again_with_the_same_id(cast: Cast, endpoint: Endpoint) -> None:
    """A worker that died after the request: its claim runs out, and nothing says that the event has arrived."""
    webhook = await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, APPROVED, "one")
    claimed = await delivering.claim_next()
    assert claimed == webhook.id
    receiver = await delivering._load(webhook.id)
    assert receiver
    [due] = await delivering._list_due(webhook.id)
    await posting.post(receiver.url, due.event_id, due.body, receiver.secrets)
    await deliver_events()
    assert len(endpoint.came) == 1, "the claim still holds"
    with time_machine.travel(clock.now() + delivering.LEASE):
        await deliver_events()
    first, second = endpoint.came
    assert first.id == second.id
    assert first.body == second.body
    [delivery] = await webhook.deliveries()
    assert delivery.status == "delivered"


async def test_a_redelivery_has_the_same_id_and_a_schedule_of_its_own(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, APPROVED, "one")
    await deliver_events()
    [delivery] = await webhook.deliveries()
    again = await redeliver(cast.alice.actor, webhook.id, delivery.id)
    assert (again.status, again.attempts) == ("waiting", 0)
    await deliver_events()
    first, second = endpoint.came
    assert first.id == second.id
    view = await get_delivery(cast.organization_id, webhook.id, delivery.id)
    assert (view.status, len(view.log)) == ("delivered", 2)


async def test_what_waited_when_it_was_disabled_is_sent_once_it_is_enabled(cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, APPROVED, "waits")
    await disable_webhook(cast.alice.actor, webhook.id)
    await happen(cast.organization_id, APPROVED, "meanwhile")
    await deliver_events()
    assert endpoint.came == []
    await enable_webhook(cast.alice.actor, webhook.id)
    await deliver_events()
    assert about(endpoint.came) == ["waits"]
