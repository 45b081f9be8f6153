"""Sources: made, changed, rotated and paused by those who may, with an audit entry each."""

import base64

import pytest

from portal.audit.queries import list_entries
from portal.db.columns import new_id
from portal.errors import Forbidden, InputInvalid, NotFound, PreconditionFailed
from portal.signals.errors import LastSecret, SecretEnded, SourceNameTaken, SourceNotActive, SourceNotPaused
from portal.signals.queries import get_source, list_sources
from portal.signals.schemas import SecretInput, SourceChange, SourceInput
from portal.signals.service import add_secret, change_source, create_source, end_secret, pause_source, resume_source
from portal.signals.tables import SourceStatus


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
