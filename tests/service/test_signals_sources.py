"""Sources: made, changed, rotated and paused by those who may, with an audit entry each."""

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from portal.audit.queries import list_entries
from portal.db.columns import new_id
from portal.db.engine import get_engine, run_sql
from portal.errors import Forbidden, InputInvalid, NotFound, PreconditionFailed
from portal.signals.errors import (
    LastSecret,
    SecretEnded,
    SignatureInvalid,
    SourceNameTaken,
    SourceNotActive,
    SourceNotPaused,
    TooManySecrets,
)
from portal.signals.intake.service import receive
from portal.signals.json_schemas.service import set_schema
from portal.signals.queries import get_source, list_sources
from portal.signals.schemas import SecretInput, SourceChange, SourceInput
from portal.signals.schemes import SCHEMES
from portal.signals.service import (
    add_secret,
    change_source,
    create_source,
    end_secret,
    pause_source,
    resume_source,
)
from portal.signals.tables import SchemaFailure, SourceStatus
from tests.schemes import CASES
from tests.signals import IP, Sender, make_sender, public_key, sign


async def make(actor, name="GitHub", scheme="github", **more):
    return await create_source(actor, SourceInput(name=name, scheme=scheme, **more))


async def kinds(cast, source_id):
    page = await list_entries(cast.organization_id, subject_kind="source", subject_id=str(source_id))
    return [entry.kind for entry in reversed(page.items)]


async def test_a_new_source_has_an_address_and_a_secret(cast):
    view, secret = await make(cast.oscar.actor)
    assert view.url == f"http://127.0.0.1:8000/api/v1/sources/{view.id}/signals"
    assert (view.status, view.body_cap_bytes) == (SourceStatus.ACTIVE, 1024 * 1024)
    assert [each.hint for each in view.secrets] == [secret[-4:]]
    assert len(bytes.fromhex(secret)) == 32
    assert await kinds(cast, view.id) == ["source.created"]
    assert await get_source(cast.organization_id, view.id) == view


async def test_a_made_standard_webhooks_secret_has_the_standard_form(cast):
    _, secret = await make(cast.alice.actor, scheme="standard_webhooks")
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) >= 24


async def test_a_given_secret_is_kept_and_a_bad_one_refused(cast):
    _, secret = await make(cast.alice.actor, secret="It's a Secret to Everybody")
    assert secret == "It's a Secret to Everybody"
    with pytest.raises(InputInvalid) as refused:
        await make(cast.alice.actor, name="Other", scheme="standard_webhooks", secret="whsec_c2hvcnQ=")
    assert refused.value.fields[0].path == "/secret"
    assert len((await list_sources(cast.organization_id)).items) == 1


async def test_names_are_unique_within_an_organisation(cast):
    first, _ = await make(cast.alice.actor)
    other, _ = await make(cast.alice.actor, name="Other")
    await make(cast.dave.actor)
    with pytest.raises(SourceNameTaken):
        await make(cast.alice.actor)
    with pytest.raises(SourceNameTaken):
        await change_source(cast.alice.actor, other.id, SourceChange(name=first.name, body_cap_bytes=2048))


async def test_a_change_needs_the_version_that_was_read(cast):
    view, _ = await make(cast.alice.actor)
    change = SourceChange(name="Renamed", body_cap_bytes=2048)
    changed = await change_source(cast.alice.actor, view.id, change, expected=view.updated_at)
    assert (changed.name, changed.body_cap_bytes) == ("Renamed", 2048)
    with pytest.raises(PreconditionFailed) as refused:
        await change_source(cast.alice.actor, view.id, change, expected=view.updated_at)
    assert refused.value.status == 412
    assert await kinds(cast, view.id) == ["source.created", "source.changed"]


async def test_a_source_is_paused_and_resumed_once(cast):
    view, _ = await make(cast.alice.actor)
    with pytest.raises(SourceNotPaused):
        await resume_source(cast.alice.actor, view.id)
    assert (await pause_source(cast.alice.actor, view.id)).status == SourceStatus.PAUSED
    with pytest.raises(SourceNotActive):
        await pause_source(cast.alice.actor, view.id)
    assert (await resume_source(cast.alice.actor, view.id)).status == SourceStatus.ACTIVE
    assert await kinds(cast, view.id) == ["source.created", "source.paused", "source.resumed"]


async def test_the_last_secret_stays(cast):
    view, _ = await make(cast.alice.actor)
    with pytest.raises(LastSecret):
        await end_secret(cast.alice.actor, view.id, view.secrets[0].id)
    both, new = await add_secret(cast.alice.actor, view.id, SecretInput())
    assert [each.ends_at for each in both.secrets] == [None, None]
    ended = await end_secret(cast.alice.actor, view.id, view.secrets[0].id)
    assert [(each.hint == new[-4:], each.ends_at is None) for each in ended.secrets] == [(True, True), (False, False)]
    with pytest.raises(SecretEnded):
        await end_secret(cast.alice.actor, view.id, view.secrets[0].id)
    with pytest.raises(NotFound):
        await end_secret(cast.alice.actor, view.id, new_id())
    assert await kinds(cast, view.id) == ["source.created", "source.secret_added", "source.secret_ended"]


async def test_rotation_never_prolongs_a_secret_that_ends_sooner(cast):
    view, _ = await make(cast.alice.actor)
    first, _ = await add_secret(cast.alice.actor, view.id, SecretInput(overlap_seconds=60))
    second, _ = await add_secret(cast.alice.actor, view.id, SecretInput(overlap_seconds=3600))
    assert second.secrets[2].ends_at == first.secrets[1].ends_at
    assert second.secrets[1].ends_at is not None
    assert second.secrets[0].ends_at is None


@pytest.mark.parametrize("who", ["bob", "carol"])
async def test_those_who_may_not_change_sources_do_not(cast, who):
    view, _ = await make(cast.alice.actor)
    actor = getattr(cast, who).actor
    change = SourceChange(name="Mine", body_cap_bytes=2048)
    attempts = [
        make(actor, name="Mine"),
        change_source(actor, view.id, change),
        add_secret(actor, view.id, SecretInput()),
        end_secret(actor, view.id, view.secrets[0].id),
        pause_source(actor, view.id),
        resume_source(actor, view.id),
    ]
    for attempt in attempts:
        with pytest.raises(Forbidden):
            await attempt
    assert await get_source(cast.organization_id, view.id) == view


async def set_a_schema(actor, source_id):
    await set_schema(actor, source_id, "sponsorship", {"type": "object"})


@pytest.mark.parametrize("change", [pause_source, set_a_schema], ids=["source", "schema"])
async def test_deliveries_are_stored_while_a_change_of_their_source_waits(cast, change):
    sender = await make_sender(cast.alice)
    async with held_audit(cast.organization_id) as is_waited_for:
        under_way = asyncio.create_task(change(cast.alice.actor, sender.source_id))
        await is_waited_for()
        receipt = await asyncio.wait_for(sender.deliver({"n": 1}), timeout=5)
        assert (receipt.status, under_way.done()) == ("received", False)
    await under_way


@asynccontextmanager
async def held_audit(organization_id):
    """Somebody else appends to the audit of the organisation and does not end; a function that waits for a waiter."""
    holder = await get_engine().get_new_connection()

    async def is_waited_for():
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND {} = ANY(pg_blocking_pids(pid))"
        while not await run_sql(waiting, holder.get_server_pid()):  # noqa: ASYNC110  it has no event for that
            await asyncio.sleep(0.01)

    try:
        async with holder.transaction():
            await holder.execute("SELECT 1 FROM audit_head WHERE organization = $1 FOR UPDATE", organization_id)
            yield is_waited_for
    finally:
        await holder.close()


async def test_a_source_of_another_organisation_is_not_there(cast):
    view, _ = await make(cast.alice.actor)
    change = SourceChange(name="Mine", body_cap_bytes=2048)
    attempts = [
        get_source(cast.dave.actor.organization_id, view.id),
        change_source(cast.dave.actor, view.id, change),
        add_secret(cast.dave.actor, view.id, SecretInput()),
        end_secret(cast.dave.actor, view.id, view.secrets[0].id),
        pause_source(cast.dave.actor, view.id),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt
    assert (await list_sources(cast.dave.actor.organization_id)).items == []


async def test_sources_are_listed_in_pages_the_newest_first(cast):
    for number in range(5):
        await make(cast.alice.actor, name=f"Source {number}")
    first = await list_sources(cast.organization_id, limit=3)
    second = await list_sources(cast.organization_id, cursor=first.next_cursor, limit=3)
    assert [view.name for view in [*first.items, *second.items]] == [f"Source {number}" for number in (4, 3, 2, 1, 0)]
    assert second.next_cursor is None


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_source_of_every_scheme_takes_what_its_sender_signs(cast, case):
    view, shown = await make(cast.alice.actor, scheme=case.scheme, secret=case.secret, settings=case.settings)
    assert shown == (None if SCHEMES[case.scheme].is_public_key(case.secret) else case.secret)
    sender = Sender(view.id, case.scheme, case.key, case.settings)
    body = case.body("evt_1", "paid")
    first = await receive(view.id, sender.headers(body, id="evt_1", event="paid"), body, IP)
    again = await receive(view.id, sender.headers(body, id="evt_1", event="paid"), body, IP)
    assert (first.duplicate, again.duplicate, again.signal_id) == (False, True, first.signal_id)
    rows = await run_sql("SELECT type, status FROM signal WHERE source = {}", view.id)
    assert [(row["type"], row["status"]) for row in rows] == [("paid", "received")]
    with pytest.raises(SignatureInvalid) as wrong:
        await receive(view.id, sender.headers(body, secret=wrong_key(case)), body, IP)
    with pytest.raises(SignatureInvalid) as unknown:
        await receive(new_id(), sender.headers(body), body, IP)
    assert unknown.value.detail == wrong.value.detail, "nobody learns which sources there are"


def wrong_key(case):
    if isinstance(case.key, str):
        return case.other_secret
    return Ed25519PrivateKey.from_private_bytes(bytes(32))


async def test_all_that_a_source_is_set_to_is_shown(cast):
    given = {
        "settings": {"header": "X-Signature", "id_header": "X-Id"},
        "allowed_networks": ["10.1.2.3/8", "2001:db8::1"],
        "rate_limit_per_minute": 600,
        "on_schema_failure": SchemaFailure.REFUSE,
        "expected_every_seconds": 3600,
    }
    view, _ = await make(cast.alice.actor, scheme="hmac", **given)
    assert view.settings["header"] == "x-signature"
    assert view.settings["algorithm"] == "sha256", "what was left out is shown, too"
    assert view.allowed_networks == ["10.0.0.0/8", "2001:db8::1/128"]
    assert (view.rate_limit_per_minute, view.on_schema_failure, view.expected_every_seconds) == (600, "refuse", 3600)
    assert await get_source(cast.organization_id, view.id) == view


async def test_a_change_says_what_it_changed_and_leaves_the_rest(cast):
    view, _ = await make(cast.alice.actor, scheme="hmac", settings={"header": "x-one"}, rate_limit_per_minute=60)
    change = SourceChange(
        name="GitHub", body_cap_bytes=2048, settings={"header": "X-Two"}, allowed_networks=["10.1.1.1"]
    )
    changed = await change_source(cast.alice.actor, view.id, change)
    assert (changed.settings["header"], changed.allowed_networks) == ("x-two", ["10.1.1.1/32"])
    assert changed.rate_limit_per_minute == 60
    assert changed.updated_at > view.updated_at
    page = await list_entries(cast.organization_id, subject_kind="source", subject_id=str(view.id))
    assert set(page.items[0].detail["after"]) == {"settings", "allowed_networks", "body_cap_bytes"}
    assert page.items[0].detail["before"]["settings"]["header"] == "x-one"
    unlimited = SourceChange(name="GitHub", body_cap_bytes=2048, rate_limit_per_minute=None)
    assert (await change_source(cast.alice.actor, view.id, unlimited)).rate_limit_per_minute is None


async def test_a_sender_is_verified_by_the_settings_as_they_are_now(cast):
    before, after = {"header": "x-one"}, {"header": "x-two", "encoding": "base64"}
    view, secret = await make(cast.alice.actor, scheme="hmac", settings=before)
    body = b"{}"
    await receive(view.id, sign("hmac", before, secret, body, id=""), body, IP)
    change = SourceChange(name="GitHub", body_cap_bytes=2048, settings=after)
    await change_source(cast.alice.actor, view.id, change)
    with pytest.raises(SignatureInvalid):
        await receive(view.id, sign("hmac", before, secret, body, id=""), body, IP)
    assert (await receive(view.id, sign("hmac", after, secret, body, id=""), body, IP)).duplicate


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"scheme": "hmac"}, "/settings/header"),
        ({"scheme": "github", "settings": {"header": "x"}}, "/settings"),
        ({"scheme": "basic", "settings": {"username": "a:b"}}, "/settings/username"),
        ({"scheme": "ed25519", "settings": {"header": "x"}}, "/secret"),
        ({"scheme": "ed25519", "settings": {"header": "x"}, "secret": "00" * 31}, "/secret"),
        ({"scheme": "standard_webhooks", "secret": "whpk_AAAA"}, "/secret"),
        ({"scheme": "hmac", "settings": {"header": "x", "key_encoding": "hex"}, "secret": "no hex at all"}, "/secret"),
        ({"allowed_networks": ["10.0.0.0/8", "here"]}, "/allowed_networks/1"),
    ],
)
async def test_what_cannot_work_is_refused_at_its_place(cast, given, path):
    with pytest.raises(InputInvalid) as refused:
        await make(cast.alice.actor, **given)
    assert [field.path for field in refused.value.fields] == [path]
    assert (await list_sources(cast.organization_id)).items == []


async def test_settings_that_the_secrets_do_not_fit_are_refused(cast):
    view, _ = await make(cast.alice.actor, scheme="hmac", settings={"header": "x"}, secret="this is not hexadecimal")
    change = SourceChange(name="A", body_cap_bytes=2048, settings={"header": "x", "key_encoding": "hex"})
    with pytest.raises(InputInvalid) as refused:
        await change_source(cast.alice.actor, view.id, change)
    assert refused.value.fields[0].path == "/settings"
    assert "imal" in refused.value.fields[0].message
    assert await get_source(cast.organization_id, view.id) == view


async def test_a_public_key_is_shown_to_nobody_and_its_senders_rotate_alike(cast):
    first, second = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    view, shown = await make(cast.alice.actor, scheme="standard_webhooks", secret="whpk_" + public_key(first))
    assert shown is None
    _, shown = await add_secret(cast.alice.actor, view.id, SecretInput(secret="whpk_" + public_key(second)))
    assert shown is None
    for key in (first, second):
        sender = Sender(view.id, "standard_webhooks", key)
        assert not (await sender.deliver({"n": 1})).duplicate


async def test_an_old_secret_works_until_its_overlap_ends_and_not_a_moment_longer(cast):
    with time_machine.travel(datetime(2026, 3, 1, 12, tzinfo=UTC), tick=False) as clock:
        view, old = await make(cast.alice.actor, scheme="standard_webhooks")
        _, new = await add_secret(cast.alice.actor, view.id, SecretInput(overlap_seconds=3600))
        senders = [Sender(view.id, "standard_webhooks", secret) for secret in (old, new)]
        clock.shift(timedelta(seconds=3599))
        for sender in senders:
            await sender.deliver({"n": 1})
        used = (await get_source(cast.organization_id, view.id)).secrets
        assert [secret.last_used_at for secret in used] == [datetime(2026, 3, 1, 12, 59, 59, tzinfo=UTC)] * 2
        clock.shift(timedelta(seconds=1))
        with pytest.raises(SignatureInvalid):
            await senders[0].deliver({"n": 2})
        await senders[1].deliver({"n": 2})


async def test_a_secret_that_is_ended_is_refused_at_the_next_delivery(cast):
    view, old = await make(cast.alice.actor)
    await add_secret(cast.alice.actor, view.id, SecretInput())
    sender = Sender(view.id, "github", old)
    await sender.deliver({"n": 1})
    await end_secret(cast.alice.actor, view.id, view.secrets[0].id)
    with pytest.raises(SignatureInvalid):
        await sender.deliver({"n": 2})


async def test_a_source_always_keeps_a_secret_without_an_end(cast):
    view, _ = await make(cast.alice.actor)
    view, _ = await add_secret(cast.alice.actor, view.id, SecretInput(overlap_seconds=60))
    with pytest.raises(LastSecret):
        await end_secret(cast.alice.actor, view.id, view.secrets[0].id)


async def test_a_source_has_at_most_ten_secrets_at_a_time(cast):
    view, _ = await make(cast.alice.actor)
    for _ in range(9):
        view, _ = await add_secret(cast.alice.actor, view.id, SecretInput())
    with pytest.raises(TooManySecrets):
        await add_secret(cast.alice.actor, view.id, SecretInput())
    await end_secret(cast.alice.actor, view.id, view.secrets[-1].id)
    view, _ = await add_secret(cast.alice.actor, view.id, SecretInput())
    view, _ = await add_secret(cast.alice.actor, view.id, SecretInput(overlap_seconds=0))
    assert len([secret for secret in view.secrets if secret.ends_at is None]) == 1


async def test_no_secret_is_stored_or_audited_in_the_open(cast):
    view, secret = await make(cast.alice.actor, scheme="bearer")
    stored = await run_sql("SELECT ciphertext, hint FROM source_secret WHERE source = {}", view.id)
    assert secret.encode() not in bytes(stored[0]["ciphertext"])
    entries = await run_sql("SELECT detail::text AS detail FROM audit_entry")
    assert not [entry for entry in entries if secret in entry["detail"]]
    assert secret not in json.dumps(view.settings)
