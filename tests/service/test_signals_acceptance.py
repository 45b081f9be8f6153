"""Refused deliveries: accepted once the cause is mended, never without a signature that holds."""

import asyncio
import json
from datetime import timedelta

import pytest

from portal import clock
from portal.audit.queries import list_entries
from portal.db.engine import run_sql
from portal.errors import Forbidden, NotFound, PortalError
from portal.logging import bind_correlation_id
from portal.signals import queries
from portal.signals.errors import DeliveryNotAcceptable
from portal.signals.intake.acceptance import AcceptanceInput, accept_all, accept_rejected, get_rejected
from portal.signals.intake.refusals import seal_headers
from portal.signals.intake.service import receive
from portal.signals.json_schemas.service import set_schema
from portal.signals.schemas import SecretInput
from portal.signals.service import add_secret, end_secret, pause_source, resume_source
from portal.signals.tables import SignalStatus
from tests.signals import IP, make_sender, standard_headers

SECRET = "the secret that the sender really uses"
BODY = b'{"order": 18446744073709551617}'


async def refused(sender, body=BODY, *, id="d-1", secret=None, ip=IP):
    """A delivery that is refused, and its row."""
    with pytest.raises(PortalError):
        await receive(sender.source_id, sender.headers(body, id=id, secret=secret), body, ip)
    [newest] = await run_sql("SELECT id FROM rejected_delivery ORDER BY id DESC LIMIT 1")
    return newest["id"]


async def mend(cast, sender):
    await add_secret(cast.alice.actor, sender.source_id, SecretInput(secret=SECRET))


async def test_a_wrong_secret_is_mended_and_the_delivery_is_stored(cast):
    sender = await make_sender(cast.alice)
    bind_correlation_id("told-to-the-sender")
    rejected_id = await refused(sender, secret=SECRET)
    bind_correlation_id("asked-by-oscar")
    seen = await get_rejected(cast.organization_id, rejected_id)
    assert (seen.cause, seen.body, seen.acceptable, seen.accepted_as) == (
        "signature_invalid",
        BODY.decode(),
        True,
        None,
    )
    with pytest.raises(DeliveryNotAcceptable, match="another secret"):
        await accept_rejected(cast.oscar.actor, rejected_id)
    await mend(cast, sender)
    receipt = await accept_rejected(cast.oscar.actor, rejected_id)
    assert (receipt.status, receipt.duplicate) == (SignalStatus.RECEIVED, False)
    signal = await queries.get_signal(cast.organization_id, receipt.signal_id)
    assert (signal.external_id, signal.payload, signal.correlation_id) == (
        "d-1",
        {"order": 2**64 + 1},
        "told-to-the-sender",
    )
    assert (await get_rejected(cast.organization_id, rejected_id)).accepted_as == receipt.signal_id
    entry = (await list_entries(cast.organization_id, kind="signal.accepted")).items[0]
    assert (entry.actor_label, entry.subject_id) == (cast.oscar.email, str(receipt.signal_id))
    with pytest.raises(DeliveryNotAcceptable, match="accepted before"):
        await accept_rejected(cast.oscar.actor, rejected_id)


async def test_what_the_sender_sent_again_meanwhile_is_not_stored_twice(cast):
    sender = await make_sender(cast.alice)
    rejected_id = await refused(sender, secret=SECRET)
    await mend(cast, sender)
    again = await receive(sender.source_id, sender.headers(BODY, id="d-1", secret=SECRET), BODY, IP)
    receipt = await accept_rejected(cast.alice.actor, rejected_id)
    assert (receipt.signal_id, receipt.duplicate) == (again.signal_id, True)
    assert len(await run_sql("SELECT 1 FROM signal")) == 1


async def test_an_id_that_is_stored_with_another_body_stays_refused(cast):
    sender = await make_sender(cast.alice)
    await sender.deliver({"first": True}, id="d-1")
    rejected_id = await refused(sender, b'{"second": true}')
    with pytest.raises(DeliveryNotAcceptable, match="with another body"):
        await accept_rejected(cast.alice.actor, rejected_id)


async def test_the_time_counts_from_when_it_came(cast):
    """A signature that was old when it came stays old; one that was fresh stays so, though the days go by."""
    sender = await make_sender(cast.alice, "standard_webhooks")
    fresh = await make_sender(cast.alice, "standard_webhooks")
    stale = standard_headers(BODY, sender.secret, id="old", at=clock.now().timestamp() - 600)
    with pytest.raises(PortalError):
        await receive(sender.source_id, stale, BODY, IP)
    await pause_source(cast.alice.actor, fresh.source_id)
    rejected_id = await refused(fresh)
    await resume_source(cast.alice.actor, fresh.source_id)
    [old] = await run_sql("SELECT id FROM rejected_delivery WHERE source = {}", sender.source_id)
    with pytest.raises(DeliveryNotAcceptable, match="too old"):
        await accept_rejected(cast.alice.actor, old["id"])
    stamp = standard_headers(BODY, fresh.secret, id="d-2", at=clock.now().timestamp() - 86400)
    await run_sql(
        "UPDATE rejected_delivery SET received_at = {}, headers = {} WHERE id = {}",
        clock.now() - timedelta(days=1),
        seal_headers(rejected_id, stamp),
        rejected_id,
    )
    receipt = await accept_rejected(cast.alice.actor, rejected_id)
    signal = await queries.get_signal(cast.organization_id, receipt.signal_id)
    assert abs(signal.skew_ms) < 60_000
    assert clock.now() - signal.received_at < timedelta(minutes=1)


async def test_a_secret_that_has_ended_since_proves_nothing(cast):
    sender = await make_sender(cast.alice)
    await pause_source(cast.alice.actor, sender.source_id)
    rejected_id = await refused(sender)
    view = await resume_source(cast.alice.actor, sender.source_id)
    await mend(cast, sender)
    await end_secret(cast.alice.actor, sender.source_id, view.secrets[0].id)
    with pytest.raises(DeliveryNotAcceptable, match="cannot be verified"):
        await accept_rejected(cast.alice.actor, rejected_id)
    assert await run_sql("SELECT 1 FROM signal") == []


async def test_what_the_source_refuses_today_is_refused_again(cast):
    sender = await make_sender(cast.alice)
    await pause_source(cast.alice.actor, sender.source_id)
    rejected_id = await refused(sender)
    with pytest.raises(DeliveryNotAcceptable, match="paused"):
        await accept_rejected(cast.alice.actor, rejected_id)
    await resume_source(cast.alice.actor, sender.source_id)
    await run_sql(
        "UPDATE source SET allowed_networks = '[\"203.0.113.0/24\"]', updated_at = {} WHERE id = {}",
        clock.now(),
        sender.source_id,
    )
    with pytest.raises(DeliveryNotAcceptable, match="takes no deliveries from 192"):
        await accept_rejected(cast.alice.actor, rejected_id)
    await run_sql(
        "UPDATE source SET allowed_networks = '[]', body_cap_bytes = 8, updated_at = {} WHERE id = {}",
        clock.now(),
        sender.source_id,
    )
    with pytest.raises(DeliveryNotAcceptable, match="at most 8 are taken"):
        await accept_rejected(cast.alice.actor, rejected_id)


@pytest.mark.parametrize(("policy", "outcome"), [("refuse", None), ("quarantine", SignalStatus.QUARANTINED)])
async def test_the_schema_of_today_decides(cast, policy, outcome):
    sender = await make_sender(cast.alice)
    await pause_source(cast.alice.actor, sender.source_id)
    rejected_id = await refused(sender)
    await resume_source(cast.alice.actor, sender.source_id)
    await run_sql(
        "UPDATE source SET on_schema_failure = {}, updated_at = {} WHERE id = {}",
        policy,
        clock.now(),
        sender.source_id,
    )
    await set_schema(cast.alice.actor, sender.source_id, "sponsorship", {"required": ["customer"]})
    if outcome is None:
        with pytest.raises(DeliveryNotAcceptable, match="fails the schema"):
            await accept_rejected(cast.alice.actor, rejected_id)
    else:
        assert (await accept_rejected(cast.alice.actor, rejected_id)).status is outcome


async def test_what_is_not_kept_whole_cannot_be_accepted(cast):
    sender = await make_sender(cast.alice, body_cap_bytes=1024)
    rejected_id = await refused(sender, json.dumps({"long": "x" * 2000}).encode())
    seen = await get_rejected(cast.organization_id, rejected_id)
    assert (seen.cause, seen.body, seen.acceptable) == ("body_too_large", None, False)
    with pytest.raises(DeliveryNotAcceptable, match="not kept"):
        await accept_rejected(cast.alice.actor, rejected_id)


async def test_headers_that_somebody_changed_are_noticed(cast):
    sender = await make_sender(cast.alice)
    one, other = await refused(sender, secret=SECRET), await refused(sender, secret=SECRET, id="d-2")
    await mend(cast, sender)
    await run_sql(
        "UPDATE rejected_delivery SET headers = (SELECT headers FROM rejected_delivery WHERE id = {}) WHERE id = {}",
        other,
        one,
    )
    with pytest.raises(DeliveryNotAcceptable, match="were changed"):
        await accept_rejected(cast.alice.actor, one)


async def test_all_of_one_cause_are_accepted_in_the_order_in_which_they_came(cast, monkeypatch):
    monkeypatch.setattr("portal.signals.intake.acceptance.MOST_AT_ONCE", 3)
    sender = await make_sender(cast.alice)
    for number in range(4):
        await refused(sender, secret=SECRET, id=f"d-{number}")
    forged = await refused(sender, secret="nobody's secret at all", id="forged")
    await mend(cast, sender)
    first = await accept_all(cast.alice.actor, sender.source_id, AcceptanceInput(cause="signature_invalid"))
    assert (len(first.accepted), first.refused) == (3, [])
    rest = await accept_all(
        cast.alice.actor, sender.source_id, AcceptanceInput(cause="signature_invalid", cursor=first.next_cursor)
    )
    assert (len(rest.accepted), [each.rejected_id for each in rest.refused], rest.next_cursor) == (1, [forged], None)
    stored = await run_sql("SELECT external_id FROM signal ORDER BY id")
    assert [row["external_id"] for row in stored] == ["d-0", "d-1", "d-2", "d-3"]


async def test_only_whoever_manages_the_sources_of_this_organisation_accepts(cast):
    sender = await make_sender(cast.alice)
    rejected_id = await refused(sender, secret=SECRET)
    await mend(cast, sender)
    with pytest.raises(Forbidden):
        await accept_rejected(cast.carol.actor, rejected_id)
    with pytest.raises(NotFound):
        await accept_rejected(cast.dave.actor, rejected_id)
    with pytest.raises(NotFound):
        await get_rejected(cast.dave.actor.organization_id, rejected_id)
    theirs = await accept_all(cast.dave.actor, sender.source_id, AcceptanceInput(cause="signature_invalid"))
    assert (theirs.accepted, theirs.refused) == ([], [])


async def test_accepted_by_several_at_once_and_sent_again_meanwhile_it_is_one_signal(cast):
    sender = await make_sender(cast.alice)
    rejected_id = await refused(sender, secret=SECRET)
    await mend(cast, sender)
    headers = sender.headers(BODY, id="d-1", secret=SECRET)
    results = await asyncio.gather(
        *(accept_rejected(player.actor, rejected_id) for player in (cast.alice, cast.oscar) * 3),
        *(receive(sender.source_id, headers, BODY, IP) for _ in range(3)),
        return_exceptions=True,
    )
    receipts = [each for each in results if not isinstance(each, Exception)]
    assert all(isinstance(each, DeliveryNotAcceptable) for each in results if each not in receipts)
    assert len(receipts) == 4, "one accepts, and every sender is answered"
    assert len({each.signal_id for each in receipts}) == 1
    assert sum(not each.duplicate for each in receipts) == 1
    assert [row["number"] for row in await run_sql("SELECT count(*) AS number FROM signal")] == [1]
