"""The pages of webhooks: made by a form, tested, watched until it is clear why something did not arrive."""

import re
from collections.abc import Iterator

import httpx
import pytest

from portal.db.engine import run_sql
from portal.notify.jobs import deliver_events, publish_events
from portal.notify.queries import list_webhooks
from tests.http.test_web_pages import Reader, text_of
from tests.people import Cast
from tests.pulls import egress_allowed
from tests.webhooks import Endpoint, Reply, happen, running_endpoint, subscribe

HOME = "/orgs/acme/webhooks"


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with egress_allowed("127.0.0.0/8"), running_endpoint() as running:
        yield running


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Reader(http)


async def test_an_empty_room_says_what_belongs_there_and_offers_it(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    page = await reader.get(HOME)
    assert "No webhook yet" in text_of(page)
    assert f'href="{HOME}/new"' in page.text
    await reader.sign_in(cast.carol)
    assert f'href="{HOME}/new"' not in (await reader.get(HOME)).text


async def test_one_is_made_by_a_form_that_keeps_what_was_typed_and_shows_its_secret_once(
    reader: Reader, cast: Cast, endpoint: Endpoint
) -> None:
    await reader.sign_in(cast.alice)
    assert "All events" in text_of(await reader.get(f"{HOME}/new"))
    wrong = await reader.post(f"{HOME}/new", name="Billing", url="http://169.254.169.254/", types=["action.*"])
    assert wrong.status_code == 400
    assert "metadata service" in text_of(wrong)
    assert 'value="Billing"' in wrong.text
    assert re.search(r'value="action\.\*" checked', wrong.text)
    none = await reader.post(f"{HOME}/new", name="Billing", url=endpoint.url)
    assert "Choose at least one" in text_of(none)
    made = await reader.post(
        f"{HOME}/new", name="Billing", url=endpoint.url, types=["action.*", "action.approved", "transaction.mined"]
    )
    assert made.status_code == 200
    secret = re.search(r'data-copy="(whsec_[^"]+)"', made.text)
    assert secret
    [webhook] = (await list_webhooks(cast.organization_id)).items
    assert webhook.types == ["action.*", "transaction.mined"]
    page = await reader.get(f"{HOME}/{webhook.id}")
    assert secret[1] not in page.text
    assert f"ends in {secret[1][-4:]}" in text_of(page)


async def test_a_page_tells_what_arrived_and_why_something_did_not(
    reader: Reader, cast: Cast, endpoint: Endpoint
) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    await reader.sign_in(cast.alice)
    home = f"{HOME}/{webhook.id}"
    assert "Nothing has been sent yet" in text_of(await reader.get(home))
    assert (await reader.post(f"{home}/test")).status_code == 303
    await publish_events()
    await deliver_events()
    assert "It takes what it is sent" in text_of(await reader.get(home))
    endpoint.say = lambda _: Reply(500, body=b"<script>alert(1)</script>")
    await happen(cast.organization_id, "action.approved", "one")
    await deliver_events()
    page = await reader.get(home)
    assert "Deliveries to it fail." in text_of(page)
    assert "127.0.0.1 answers HTTP 500." in text_of(page)
    assert "Failing" in text_of(await reader.get(HOME))
    waiting = await reader.get(f"{home}?status=waiting")
    assert "action.approved" in text_of(waiting)
    assert "webhook.test" not in text_of(waiting)
    found = re.search(rf'href="({home}/deliveries/[^"]+)"', waiting.text)
    assert found
    shown = await reader.get(found[1])
    assert "HTTP 500" in text_of(shown)
    assert "1 of 10" in text_of(shown)
    assert "<script>alert" not in shown.text
    endpoint.say = lambda _: Reply()
    assert (await reader.post(f"{found[1]}/redeliver")).headers["location"].startswith(found[1])
    await deliver_events()
    assert "Delivered" in text_of(await reader.get(found[1]))


async def test_a_thousand_that_wait_are_counted_and_of_more_it_is_said_that_there_are(
    reader: Reader, cast: Cast, endpoint: Endpoint
) -> None:
    await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, "action.approved", "one")
    await publish_events()
    copies = """
        WITH told AS (
            INSERT INTO event SELECT made.*
            FROM generate_series({}::int, {}::int) n, (SELECT * FROM event LIMIT 1) one, LATERAL
                jsonb_populate_record(one::event, jsonb_build_object('id', gen_random_uuid(), 'position', n)) made
            RETURNING id)
        INSERT INTO delivery SELECT made.* FROM told, (SELECT * FROM delivery LIMIT 1) one, LATERAL
            jsonb_populate_record(one::delivery, jsonb_build_object('id', gen_random_uuid(), 'event', told.id)) made"""
    await run_sql(copies, 2, 1000)
    await reader.sign_in(cast.alice)
    assert ">1,000</td>" in (await reader.get(HOME)).text
    await run_sql(copies, 1001, 1001)
    assert ">1,000+</td>" in (await reader.get(HOME)).text


async def test_it_is_changed_rotated_disabled_enabled_and_deleted_by_forms(
    reader: Reader, cast: Cast, endpoint: Endpoint
) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    await reader.sign_in(cast.alice)
    home = f"{HOME}/{webhook.id}"
    version = re.search(r'name="version" value="([^"]+)"', (await reader.get(f"{home}/edit")).text)
    assert version
    change = {"name": "Ledger", "url": endpoint.url, "types": ["transaction.*"], "version": version[1]}
    assert (await reader.post(f"{home}/edit", **change)).status_code == 303
    late = await reader.post(f"{home}/edit", **change)
    assert late.status_code == 412
    assert "changed the webhook meanwhile" in text_of(late)
    rotated = await reader.post(f"{home}/secrets", overlap_seconds="3600")
    assert "whsec_" in rotated.text
    old = (await webhook.view()).secrets[-1]
    assert old.ends_at
    assert (await reader.post(f"{home}/secrets/{old.id}/end")).status_code == 303
    assert (await reader.post(f"{home}/disable")).status_code == 303
    disabled = text_of(await reader.get(home))
    assert "alice@example.org disabled it." in disabled
    assert "Send a test" not in disabled
    refused = await reader.post(f"{home}/test")
    assert refused.status_code == 409
    assert (await reader.post(f"{home}/enable")).status_code == 303
    unsure = await reader.post(f"{home}/delete")
    assert "Tick that it is meant." in text_of(unsure)
    assert (await reader.post(f"{home}/delete", sure="yes")).headers["location"].startswith(HOME)
    assert (await reader.get(home)).status_code == 404
    told = text_of(await reader.get("/orgs/acme/audit?subject_kind=webhook"))
    assert "deleted" in told


async def test_a_reader_sees_all_and_changes_nothing(reader: Reader, cast: Cast, endpoint: Endpoint) -> None:
    webhook = await subscribe(cast.alice, endpoint.url)
    await happen(cast.organization_id, "action.approved", "one")
    await reader.sign_in(cast.carol)
    page = await reader.get(f"{HOME}/{webhook.id}")
    assert "action.approved" in text_of(page)
    assert f'action="{HOME}' not in page.text
    assert (await reader.get(f"{HOME}/{webhook.id}/edit")).status_code == 403
