"""Deliveries: stored once before they are answered, whatever arrives; and what a refused one leaves behind."""

import asyncio
import json

import pytest

from portal import clock
from portal.audit.queries import list_entries
from portal.db.columns import new_id
from portal.db.engine import run_sql
from portal.errors import PortalError
from portal.logging import bind_correlation_id
from portal.signals import queries, schemes
from portal.signals.errors import (
    AddressNotAllowed,
    BodyTooLarge,
    HeadersInvalid,
    SignalConflict,
    SignatureInvalid,
    SourcePaused,
)
from portal.signals.intake import acceptance, refusals
from portal.signals.intake import service as intake
from portal.signals.intake.service import receive
from portal.signals.schemas import SecretInput, SignalFilter, SourceChange
from portal.signals.service import add_secret, change_source, end_secret, pause_source, resume_source
from portal.signals.tables import SignalStatus
from tests.signals import IP, github_examples, github_headers, make_sender, sponsorship, standard_headers

BODY = b'{"type":"invoice.paid","amount":"12.50"}'


async def count_signals() -> int:
    return int((await run_sql("SELECT count(*) AS count FROM signal"))[0]["count"])


async def list_rejected(cast):
    return (await queries.list_rejected_deliveries(cast.organization_id)).items


async def test_a_delivery_is_stored_as_it_came(cast):
    sender = await make_sender(cast.alice, "standard_webhooks", name="Shop")
    bind_correlation_id("request-1")
    receipt = await sender.deliver(BODY, id="evt_1")
    assert (receipt.status, receipt.duplicate) == (SignalStatus.RECEIVED, False)
    signal = await queries.get_signal(cast.organization_id, receipt.signal_id)
    assert (signal.external_id, signal.type, signal.source_name) == ("evt_1", "invoice.paid", "Shop")
    assert signal.payload == {"type": "invoice.paid", "amount": "12.50"}
    assert signal.body.encode() == BODY
    assert signal.correlation_id == "request-1"
    assert signal.secret_hint == sender.secret[-4:]
    assert signal.skew_ms is not None
    assert 0 <= signal.skew_ms < 5000


async def test_every_example_of_github_is_accepted_and_shown(cast):
    sender = await make_sender(cast.alice)
    assert len(github_examples()) > 300
    for event, body in github_examples():
        receipt = await sender.deliver(body, event=event)
        assert (receipt.status, receipt.duplicate) == (SignalStatus.RECEIVED, False)
        signal = await queries.get_signal(cast.organization_id, receipt.signal_id)
        assert (signal.type, signal.payload) == (event, json.loads(body))
    page = await queries.list_signals(cast.organization_id, limit=200)
    assert len(page.items) == 200
    assert page.next_cursor
    rest = await queries.list_signals(cast.organization_id, cursor=page.next_cursor, limit=200)
    assert len(page.items) + len(rest.items) == len(github_examples())


@pytest.mark.parametrize("scheme", ["github", "standard_webhooks"])
async def test_the_same_delivery_again_is_the_same_signal(cast, scheme):
    sender = await make_sender(cast.alice, scheme)
    first = await sender.deliver(BODY, id="same")
    again = await sender.deliver(BODY, id="same")
    assert again.signal_id == first.signal_id
    assert again.duplicate
    assert await count_signals() == 1


async def test_a_hundred_copies_at_once_are_one_signal(cast):
    sender = await make_sender(cast.alice, "standard_webhooks")
    receipts = await asyncio.gather(*(sender.deliver(BODY, id="same") for _ in range(100)))
    assert len({receipt.signal_id for receipt in receipts}) == 1
    assert sum(not receipt.duplicate for receipt in receipts) == 1
    assert await count_signals() == 1


async def test_the_same_id_from_another_source_is_another_signal(cast):
    first, second = await make_sender(cast.alice), await make_sender(cast.alice)
    assert (await first.deliver(BODY, id="same")).signal_id != (await second.deliver(BODY, id="same")).signal_id
    assert await count_signals() == 2


async def test_the_same_id_with_another_body_is_a_conflict_that_is_remembered(cast):
    sender = await make_sender(cast.alice, "standard_webhooks")
    first = await sender.deliver(BODY, id="same")
    with pytest.raises(SignalConflict) as refused:
        await sender.deliver(b'{"type":"invoice.paid","amount":"9999"}', id="same")
    assert refused.value.status == 409
    signal = await queries.get_signal(cast.organization_id, first.signal_id)
    assert signal.body.encode() == BODY
    assert [(each.cause, each.external_id) for each in await list_rejected(cast)] == [("signal_conflict", "same")]
    entries = (await list_entries(cast.organization_id, subject_kind="signal", subject_id=str(first.signal_id))).items
    assert [entry.kind for entry in entries] == ["signal.conflicted"]


async def test_a_wrong_signature_is_refused_and_listed_with_its_reason(cast):
    sender = await make_sender(cast.alice, "standard_webhooks", name="Shop")
    headers = standard_headers(BODY, sender.secret, id="evt_9", at=clock.now().timestamp() - 400)
    with pytest.raises(SignatureInvalid) as refused:
        await receive(sender.source_id, headers, BODY, IP)
    assert refused.value.status == 401
    assert "old" not in refused.value.detail
    [rejected] = await list_rejected(cast)
    assert (rejected.cause, rejected.external_id, rejected.ip) == ("signature_invalid", "evt_9", IP)
    assert (rejected.source_name, rejected.body_bytes) == ("Shop", len(BODY))
    assert "too old" in rejected.detail
    source = await queries.get_source(cast.organization_id, sender.source_id)
    assert (source.rejected_24h, source.signals_24h, source.last_signal_at) == (1, 0, None)
    assert await count_signals() == 0


async def test_the_same_meaning_in_other_bytes_is_refused(cast):
    sender = await make_sender(cast.alice)
    body = json.dumps(sponsorship()).encode()
    with pytest.raises(SignatureInvalid):
        await receive(sender.source_id, sender.headers(body), json.dumps(json.loads(body), indent=1).encode(), IP)


@pytest.mark.parametrize("scheme", ["github", "standard_webhooks"])
async def test_an_unknown_source_answers_like_a_wrong_signature(cast, scheme):
    sender = await make_sender(cast.alice, scheme)
    answers = []
    for source_id in (sender.source_id, str(new_id()), "nonsense", ""):
        with pytest.raises(PortalError) as refused:
            await receive(source_id, sender.headers(BODY, secret="whsec_" + "A" * 40), BODY, IP)
        answers.append((type(refused.value), refused.value.status, refused.value.detail))
    assert len(set(answers)) == 1
    assert len(await list_rejected(cast)) == 1


async def test_another_sources_secret_is_no_proof(cast):
    mine, theirs = await make_sender(cast.alice), await make_sender(cast.dave)
    with pytest.raises(SignatureInvalid):
        await receive(mine.source_id, theirs.headers(BODY), BODY, IP)


async def test_doubled_headers_and_impossible_ids_are_refused_alike_for_known_and_unknown_sources(cast):
    sender = await make_sender(cast.alice, "standard_webhooks")
    doubled = [*sender.headers(BODY), (b"webhook-id", b"again")]
    dotted = standard_headers(BODY, sender.secret, id="a.b")
    for headers in (doubled, dotted):
        for source_id in (sender.source_id, new_id()):
            with pytest.raises(HeadersInvalid):
                await receive(source_id, headers, BODY, IP)
    assert [each.cause for each in await list_rejected(cast)] == ["headers_invalid"] * 2


async def test_a_github_delivery_without_its_id_is_refused(cast):
    sender = await make_sender(cast.alice)
    headers = [pair for pair in sender.headers(BODY) if pair[0] != b"x-github-delivery"]
    with pytest.raises(HeadersInvalid):
        await receive(sender.source_id, headers, BODY, IP)


async def test_a_paused_source_says_so_only_to_its_sender(cast):
    sender = await make_sender(cast.alice)
    await pause_source(cast.alice.actor, sender.source_id)
    with pytest.raises(SourcePaused):
        await sender.deliver(BODY)
    with pytest.raises(SignatureInvalid):
        await receive(sender.source_id, sender.headers(BODY, secret="a guess at the secret"), BODY, IP)
    assert await count_signals() == 0
    await resume_source(cast.alice.actor, sender.source_id)
    assert (await sender.deliver(BODY)).status == SignalStatus.RECEIVED


async def test_a_body_over_the_sources_cap_is_refused(cast):
    sender = await make_sender(cast.alice, body_cap_bytes=1024)
    at_the_cap = b'"' + b"x" * 1022 + b'"'
    assert (await sender.deliver(at_the_cap)).status == SignalStatus.RECEIVED
    with pytest.raises(BodyTooLarge) as refused:
        await sender.deliver(at_the_cap + b" ")
    assert refused.value.status == 413
    assert await intake.find_body_cap(sender.source_id) == 1024 * 1024
    assert await intake.find_body_cap(new_id()) == 1024 * 1024


UNREADABLE = {
    b"": "empty",
    b"{": "line 1",
    b"\xff\xfe": "UTF-8",
    b'{"a":1,"a":2}': "'a' twice",
    b'{"a":NaN}': "NaN",
    b"[" * 5000 + b"]" * 5000: "100 levels",
    b"9" * 5000: "too long",
    b'"\\ud800"': "surrogate",
}


@pytest.mark.parametrize("body", UNREADABLE, ids=UNREADABLE.values())
@pytest.mark.parametrize("scheme", ["github", "standard_webhooks"])
async def test_an_authentic_body_that_cannot_be_read_is_kept_in_quarantine(cast, scheme, body):
    sender = await make_sender(cast.alice, scheme)
    receipt = await sender.deliver(body)
    assert receipt.status == SignalStatus.QUARANTINED
    signal = await queries.get_signal(cast.organization_id, receipt.signal_id)
    assert signal.payload is None
    assert signal.body_bytes == len(body)
    assert UNREADABLE[body] in signal.reasons[0].message


async def test_numbers_keep_every_digit(cast):
    sender = await make_sender(cast.alice)
    body = (
        b'{"wei":115792089237316195423570985008687907853269984665640564039457584007913129639935,"n":9007199254740993}'
    )
    receipt = await sender.deliver(body)
    signal = await queries.get_signal(cast.organization_id, receipt.signal_id)
    assert signal.payload == {"wei": 2**256 - 1, "n": 2**53 + 1}


@pytest.mark.parametrize("type", [None, 7, "", "a b", "x" * 129, "nul\u0000", ["a"]])
async def test_a_type_that_is_none_is_unknown(cast, type):
    sender = await make_sender(cast.alice, "standard_webhooks")
    receipt = await sender.deliver({"type": type})
    assert (await queries.get_signal(cast.organization_id, receipt.signal_id)).type == "unknown"


async def test_old_and_new_secret_overlap_and_an_ended_one_stops_at_once(cast):
    sender = await make_sender(cast.alice, "standard_webhooks")
    source, new = await add_secret(cast.alice.actor, sender.source_id, SecretInput(overlap_seconds=3600))
    for secret in (sender.secret, new):
        await receive(sender.source_id, sender.headers(BODY, secret=secret), BODY, IP)
    old = source.secrets[1]
    assert old.ends_at
    await end_secret(cast.alice.actor, sender.source_id, old.id)
    with pytest.raises(SignatureInvalid):
        await receive(sender.source_id, sender.headers(BODY, secret=sender.secret), BODY, IP)
    signals = (await queries.list_signals(cast.organization_id)).items
    assert {(await queries.get_signal(cast.organization_id, item.id)).secret_hint for item in signals} == {
        sender.secret[-4:],
        new[-4:],
    }


async def test_an_overlap_ends_by_itself(cast):
    sender = await make_sender(cast.alice)
    await add_secret(cast.alice.actor, sender.source_id, SecretInput(overlap_seconds=0))
    with pytest.raises(SignatureInvalid):
        await sender.deliver(BODY)


async def test_a_secret_notes_when_it_was_used(cast):
    sender = await make_sender(cast.alice)
    before = clock.now()
    await sender.deliver(BODY)
    used = (await queries.get_source(cast.organization_id, sender.source_id)).secrets[0].last_used_at
    assert used
    assert used >= before
    await sender.deliver(BODY)
    assert (await queries.get_source(cast.organization_id, sender.source_id)).secrets[0].last_used_at == used


async def test_only_the_newest_refusals_are_kept(cast, monkeypatch):
    monkeypatch.setattr(refusals, "KEPT", 5)
    sender, other = await make_sender(cast.alice), await make_sender(cast.alice)
    for who, times in ((other, 2), (sender, 8)):
        for number in range(times):
            with pytest.raises(SignatureInvalid):
                await receive(who.source_id, github_headers(BODY, "a wrong secret", id=f"no-{number}"), BODY, IP)
    kept = (await queries.list_rejected_deliveries(cast.organization_id, source_id=sender.source_id)).items
    assert [each.external_id for each in kept] == ["no-7", "no-6", "no-5", "no-4", "no-3"]
    assert len((await queries.list_rejected_deliveries(cast.organization_id, source_id=other.source_id)).items) == 2


async def test_strangers_push_out_no_refusal_of_an_authentic_delivery(cast, monkeypatch):
    monkeypatch.setattr(refusals, "KEPT", 3)
    monkeypatch.setattr(refusals, "KEPT_LARGE_BYTES", 100_000)
    sender, large = await make_sender(cast.alice), json.dumps("a" * 40_000).encode()
    await pause_source(cast.alice.actor, sender.source_id)
    with pytest.raises(SourcePaused):
        await sender.deliver(large, id="authentic")
    for number in range(5):
        with pytest.raises(SignatureInvalid):
            await receive(sender.source_id, github_headers(large, "a wrong secret", id=f"no-{number}"), large, IP)
    kept = {each.external_id: each.id for each in await list_rejected(cast)}
    assert list(kept) == ["no-4", "no-3", "no-2", "authentic"]
    await resume_source(cast.alice.actor, sender.source_id)
    assert not (await acceptance.accept_rejected(cast.alice.actor, kept["authentic"])).duplicate
    assert [await is_kept_whole(cast, kept[f"no-{number}"]) for number in (4, 3, 2)] == [True, True, False]


async def is_kept_whole(cast, rejected_id):
    return (await acceptance.get_rejected(cast.organization_id, rejected_id)).acceptable


@pytest.mark.parametrize(
    ("ip", "allowed"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("::ffff:11.1.2.3", False), ("2001:db8::1", False), ("", False)],
)
async def test_an_address_is_the_same_on_a_socket_for_both_families(cast, ip, allowed):
    sender = await make_sender(cast.alice)
    given = SourceChange(name="Shop", body_cap_bytes=2048, allowed_networks=["10.0.0.0/8"])
    await change_source(cast.alice.actor, sender.source_id, given)
    delivery = receive(sender.source_id, sender.headers(BODY), BODY, ip)
    if allowed:
        assert not (await delivery).duplicate
    else:
        with pytest.raises(AddressNotAllowed):
            await delivery


async def test_a_refusal_is_kept_without_its_body_where_its_headers_are_huge(cast):
    sender = await make_sender(cast.alice)
    for query in (b"a=b", b"a" * 60_000):
        headers = [*github_headers(BODY, "a wrong secret", id=f"no-{len(query)}"), (schemes.QUERY, query)]
        with pytest.raises(SignatureInvalid):
            await receive(sender.source_id, headers, BODY, IP)
    huge, modest = await list_rejected(cast)
    assert [await is_kept_whole(cast, each.id) for each in (modest, huge)] == [True, False]


async def test_no_secret_is_stored_in_the_clear(cast):
    sender = await make_sender(cast.alice)
    await sender.deliver(BODY)
    for table in ("source", "source_secret", "signal", "audit_entry", "rejected_delivery"):
        rows = await run_sql(f"SELECT t::text AS row FROM {table} t")
        assert not any(sender.secret in row["row"] or sender.secret.encode().hex() in row["row"] for row in rows)


async def test_signals_of_another_organisation_are_not_there(cast):
    theirs = await make_sender(cast.dave)
    await theirs.deliver(BODY)
    assert (await queries.list_signals(cast.organization_id)).items == []
    assert (await queries.count_signals_by_status(cast.organization_id, SignalFilter()))[SignalStatus.RECEIVED] == 0
