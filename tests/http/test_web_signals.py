"""The history of signals as people use it with forms alone: choosing many, replays, exports, what was refused."""

import csv
import io
import json
import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import httpx
import pytest
import pytest_asyncio

from portal.db.columns import oldest_id
from portal.db.engine import run_sql, transaction
from portal.rules.jobs import run_replays
from portal.rules.service import assess
from portal.signals.errors import SignatureInvalid
from portal.signals.intake.service import receive
from portal.signals.jobs import run_batches
from portal.signals.json_schemas.service import set_schema
from tests.http.test_web_pages import text_of
from tests.http.test_web_rooms import HOME, NOWHERE, Visitor, deliver_some
from tests.people import Cast
from tests.rules import RuleStage, make_rule_stage
from tests.signals import IP, Sender, make_sender, sponsorship


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Visitor:
    return Visitor(http)


@pytest_asyncio.fixture
async def written(cast: Cast) -> RuleStage:
    return await make_rule_stage(cast)


ANYBODY = {"to": '"0x00000000000000000000000000000000000000aa"', "amount": "units(1, 18)"}


def hidden(page: httpx.Response, action: str) -> list[tuple[str, str]]:
    """The hidden fields of the page's form that posts to `action`."""
    form = page.text.split(f'action="{action}"')[1].split("</form>")[0]
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', form)
    return [(name, unescape(value)) for name, value in found if name != "csrf_token"]


async def rewrite(sql: str, *arguments: Any) -> None:
    """Change what the database lets nobody change."""
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")
        await run_sql(sql, *arguments)


async def follow(reader: Visitor, answer: httpx.Response) -> httpx.Response:
    assert answer.status_code == 303, text_of(answer)
    return await reader.get(answer.headers["location"])


# The list


async def test_a_moment_of_the_history_is_asked_for(reader: Visitor, cast: Cast) -> None:
    sender = await make_sender(cast.alice)
    old, new = await sender.deliver({"n": 1}), await sender.deliver({"n": 2})
    at, id = datetime(2026, 5, 3, 9, 30, tzinfo=UTC), oldest_id(datetime(2026, 5, 3, 9, 30, tzinfo=UTC))
    await rewrite("UPDATE signal SET id = {}, received_at = {} WHERE id = {}", id, at, old.signal_id)
    await reader.sign_in(cast.carol)
    for question, shown in {
        "since=2026-05-03T09:00&until=2026-05-03T10:00": old,
        "since=2026-05-03T11:30:00%2B02:00&until=2026-05-03T09:31:00Z": old,
        "since=2026-05-03T10:00": new,
        "period=1h": new,
    }.items():
        page = (await reader.get(f"{HOME}/signals?{question}")).text
        assert [str(each) in page for each in (id, new.signal_id)] == [each is shown for each in (old, new)], question
    for wrong in ("since=yesterday", "until=9999-12-31T23:59:59-14:00", "since=0001-01-01T00:00:00%2B14:00"):
        assert (await reader.get(f"{HOME}/signals?{wrong}")).status_code == 400, wrong


async def test_a_shown_signal_that_was_waiting_says_what_became_of_it(reader: Visitor, written: RuleStage) -> None:
    await written.publish()
    waiting = await written.sender.deliver(sponsorship())
    await reader.sign_in(written.cast.carol)
    page = await reader.get(f"{HOME}/signals")
    ask = unescape(re.search(r'hx-get="([^"]+/signals/new[^"]*)"', page.text)[1])
    assert f"signal-{waiting.signal_id}" not in (await reader.get(ask)).text, "nothing has changed yet"
    await assess(100)
    changed = await reader.get(ask)
    assert f'hx-target="#signal-{waiting.signal_id}"' in changed.text
    assert "Matched a rule" in text_of(changed)
    assert "1 action" in text_of(changed)
    assert (await reader.get(f"{HOME}/signals/new?after=2026-05-03T09:30:00Z&waiting=17")).status_code == 400


async def test_signals_are_found_by_the_end_user_they_were_for(reader: Visitor, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.carol)
    page = await reader.get(f"{HOME}/signals?subject=github:monalisa")
    assert [name for name, id in ids.items() if id in page.text] == ["assessed"]
    assert "Nothing matches" in text_of(await reader.get(f"{HOME}/signals?subject=github:nobody"))


async def test_volume_of_an_organisation_without_signals(reader: Visitor, cast: Cast) -> None:
    await reader.sign_in(cast.carol)
    assert "volume" not in (await reader.get(f"{HOME}/signals")).text
    assert "0 signals in 24 hours" in text_of(await reader.get(f"{HOME}/signals/volume"))


async def test_volume_is_that_of_the_source_that_is_chosen(reader: Visitor, cast: Cast) -> None:
    shop, forum = await make_sender(cast.alice, name="Shop"), await make_sender(cast.alice, name="Forum")
    for number in range(3):
        await shop.deliver({"n": number})
    await forum.deliver({"n": 1})
    await run_sql("UPDATE signal SET status = 'failed'")
    await reader.sign_in(cast.carol)
    assert "4 signals in 24 hours from all sources" in text_of(await reader.get(f"{HOME}/signals/volume"))
    chart = await reader.get(f"{HOME}/signals/volume?source_id={shop.source_id}")
    assert "3 signals in 24 hours from Shop" in text_of(chart)
    assert "3 signals, 3 in trouble" in chart.text
    assert f"source_id={shop.source_id}&amp;since=" in chart.text, "an hour of the chart keeps the source"
    assert (await reader.get(f"{HOME}/signals/volume?source_id={NOWHERE}")).status_code == 404


# One signal


async def with_schema(cast: Cast) -> tuple[Sender, str]:
    """A source whose orders need an amount, and one that has a wrong amount and no customer."""
    sender = await make_sender(cast.alice)
    schema = {
        "type": "object",
        "required": ["customer"],
        "properties": {"lines": {"type": "array", "items": {"properties": {"amount": {"type": "number"}}}}},
    }
    await set_schema(cast.alice.actor, sender.source_id, "order", schema)
    receipt = await sender.deliver({"lines": [{"amount": 1}, {"amount": "<b>two</b>"}]}, event="order")
    assert receipt.status == "quarantined"
    return sender, str(receipt.signal_id)


async def test_errors_of_a_schema_point_into_the_body(reader: Visitor, cast: Cast) -> None:
    _, id = await with_schema(cast)
    await reader.sign_in(cast.carol)
    page = await reader.get(f"{HOME}/signals/{id}")
    assert "Version 1 of order" in text_of(page)
    links = re.findall(r'<a href="#(wrong-\d+)" data-reveal><code>([^<]*)</code>', page.text)
    assert {path for _, path in links} == {"/lines/1/amount", "the whole"}
    for anchor, path in links:
        marked = page.text.split(f'id="{anchor}"')[1]
        assert "tree-said" in marked[:900], path
    assert "<b>two</b>" not in page.text


async def test_a_quarantined_signal_is_checked_again_once_the_schema_is_mended(reader: Visitor, cast: Cast) -> None:
    sender, id = await with_schema(cast)
    await set_schema(cast.alice.actor, sender.source_id, "order", {"type": "object"})
    await reader.sign_in(cast.oscar)
    assert "Check again" in text_of(await reader.get(f"{HOME}/signals/{id}"))
    done = await reader.post(f"{HOME}/signals/{id}/recheck")
    assert done.headers["location"] == f"{HOME}/signals/{id}?done=rechecked"
    await run_batches()
    await assess(100)
    assert "No rule matched" in text_of(await reader.get(f"{HOME}/signals/{id}"))
    assert (await reader.post(f"{HOME}/signals/{NOWHERE}/recheck")).status_code == 404


async def test_an_expired_body_is_said_honestly(reader: Visitor, written: RuleStage) -> None:
    ids = await deliver_some(written)
    digest = (await run_sql("SELECT body_digest FROM signal WHERE id = {}::uuid", ids["failed"]))[0]["body_digest"]
    await run_sql("UPDATE signal SET body = NULL, words = NULL")
    await run_sql("UPDATE organization SET body_retention_days = 30 WHERE id = {}", written.cast.organization_id)
    await reader.sign_in(written.cast.oscar)
    page = await reader.get(f"{HOME}/signals/{ids['failed']}")
    shown = text_of(page)
    assert "The body has expired" in shown
    assert "keeps bodies for 30 days" in shown
    assert bytes(digest).hex() in shown
    assert "Replay…" not in shown
    assert "letter by letter" not in shown


@pytest.mark.parametrize("scheme", ["bearer", "basic", "github"])
async def test_the_verdict_says_what_was_proved(reader: Visitor, cast: Cast, scheme: str) -> None:
    sender = await make_sender(cast.alice)
    receipt = await sender.deliver({})
    await run_sql("UPDATE source SET scheme = {} WHERE id = {}", scheme, sender.source_id)
    await reader.sign_in(cast.carol)
    shown = text_of(await reader.get(f"{HOME}/signals/{receipt.signal_id}"))
    assert ("The signature is right" in shown) == (scheme == "github")
    assert ("the body itself is not signed" in shown) == (scheme != "github")
    assert sender.secret[-4:] in shown
    assert sender.secret not in shown


async def test_what_was_pulled_claims_no_signature(reader: Visitor, cast: Cast) -> None:
    sender = await make_sender(cast.alice)
    receipt = await sender.deliver({})
    await rewrite("UPDATE signal SET secret = NULL")
    await run_sql("UPDATE source SET scheme = 'poll'")
    await reader.sign_in(cast.carol)
    shown = text_of(await reader.get(f"{HOME}/signals/{receipt.signal_id}"))
    assert "Read by the portal" in shown
    assert "signature is right" not in shown


# Replays


async def test_a_replay_is_shown_before_it_is_done(reader: Visitor, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await written.publish(name="Stars", condition='signal.type == "star"', subject=None, arguments=ANYBODY)
    await reader.sign_in(written.cast.oscar)
    preview = await reader.get(f"{HOME}/signals/replays/new?text=needle")
    shown = text_of(preview)
    assert "New actions" in shown
    assert "Stars" in shown
    assert "1 signal" in shown
    assert (await run_sql("SELECT count(*) AS n FROM signal_batch"))[0]["n"] == 0, "nothing is done by looking"
    answer = await reader.post(f"{HOME}/signals/replays", **dict(hidden(preview, f"{HOME}/signals/replays")))
    progress = await follow(reader, answer)
    assert "Waiting" in text_of(progress)
    assert "It goes on if you leave this page" in text_of(progress)
    await run_replays()
    done = text_of(await reader.get(answer.headers["location"]))
    assert "1 of 1 signal was set back" in done
    await assess(100)
    assert "1 action" in text_of(await reader.get(f"{HOME}/signals?type=star"))
    assert "Replay by oscar@example.org" in text_of(await reader.get(f"{HOME}/signals/replays"))
    assert ids["ignored"] in preview.text


async def test_one_signal_is_replayed_at_once(reader: Visitor, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.oscar)
    preview = await reader.get(f"{HOME}/signals/replays/new?signal_id={ids['assessed']}")
    assert "Proposed before, so not again" in text_of(preview)
    assert hidden(preview, f"{HOME}/signals/replays") == [("signal_id", ids["assessed"])]
    done = await reader.post(f"{HOME}/signals/replays", signal_id=ids["assessed"])
    assert done.headers["location"] == f"{HOME}/signals/{ids['assessed']}?done=replayed"


async def test_ticked_signals_are_replayed_and_no_others(reader: Visitor, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.oscar)
    listed = (await reader.get(f"{HOME}/signals")).text
    assert listed.count('name="signal_id"') == 4
    chosen = [ids["assessed"], ids["failed"]]
    answer = await reader.post(f"{HOME}/signals/replays", signal_id=chosen)
    await run_replays()
    assert "2 of 2 signals" in text_of(await reader.get(answer.headers["location"]))
    waiting = await run_sql("SELECT id FROM signal WHERE status = 'received'")
    assert {str(row["id"]) for row in waiting} == set(chosen)


async def test_signals_that_are_none_cannot_be_chosen(reader: Visitor, written: RuleStage) -> None:
    await reader.sign_in(written.cast.oscar)
    assert (await reader.get(f"{HOME}/signals/replays/new?signal_id=17")).status_code == 400
    assert (await reader.post(f"{HOME}/signals/rechecks", signal_id="17")).status_code == 400
    gone = await reader.post(f"{HOME}/signals/replays", signal_id=NOWHERE)
    assert gone.status_code == 404


async def test_a_replay_is_cancelled(reader: Visitor, written: RuleStage) -> None:
    await deliver_some(written)
    await reader.sign_in(written.cast.oscar)
    answer = await reader.post(f"{HOME}/signals/replays")
    path = answer.headers["location"]
    assert "Cancel it" in text_of(await reader.get(path))
    await follow(reader, await reader.post(f"{path}/cancel"))
    assert "It was cancelled after 0 signals" in text_of(await reader.get(path))
    again = await reader.post(f"{path}/cancel")
    assert again.status_code == 409
    assert "nothing to cancel" in text_of(again)


async def test_a_fourth_at_once_is_refused_with_what_was_chosen(reader: Visitor, written: RuleStage) -> None:
    await deliver_some(written)
    await reader.sign_in(written.cast.oscar)
    for _ in range(3):
        assert (await reader.post(f"{HOME}/signals/rechecks")).status_code == 303
    refused = await reader.post(f"{HOME}/signals/rechecks", type="star")
    assert refused.status_code == 409
    assert "Wait for one to end" in text_of(refused)
    assert ("type", "star") in hidden(refused, f"{HOME}/signals/rechecks")


@pytest.mark.parametrize("path", ["replays", "rechecks"])
async def test_who_may_not_replay_is_not_offered_it(reader: Visitor, written: RuleStage, path: str) -> None:
    await deliver_some(written)
    await reader.sign_in(written.cast.carol)
    assert (await reader.get(f"{HOME}/signals/{path}/new")).status_code == 403
    assert (await reader.post(f"{HOME}/signals/{path}")).status_code == 403
    assert "Replay…" not in text_of(await reader.get(f"{HOME}/signals"))
    assert (await reader.get(f"{HOME}/signals/{path}")).status_code == 200


# Exports


@pytest.mark.parametrize("format", ["ndjson", "csv"])
async def test_what_the_list_shows_is_exported(reader: Visitor, written: RuleStage, format: str) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.carol)
    page = await reader.get(f"{HOME}/signals/exports/new?type=star")
    assert "star" in text_of(page)
    fields = dict(hidden(page, f"{HOME}/signals/exports"))
    answer = await reader.post(f"{HOME}/signals/exports", format=format, **fields)
    path = answer.headers["location"]
    assert (await reader.get(f"{path}/file")).status_code == 409
    await run_batches()
    assert f"Download {format.upper()}" in text_of(await reader.get(path))
    assert "Which signals Type star" in text_of(await reader.get(path)), "it says what the file holds"
    file = await reader.get(f"{path}/file")
    assert file.headers["content-disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO(file.text))) if format == "csv" else [json.loads(file.text)]
    assert [row["id"] for row in rows] == [ids["ignored"]]
    assert "Download" in text_of(await reader.get(f"{HOME}/signals/exports"))
    await reader.post(f"{path}/cancel")
    assert "Its file is deleted" in text_of(await reader.get(path))


async def test_an_export_needs_a_format(reader: Visitor, written: RuleStage) -> None:
    await reader.sign_in(written.cast.carol)
    for format in ("", "pdf"):
        assert (await reader.post(f"{HOME}/signals/exports", format=format)).status_code == 400


async def test_ticked_signals_are_exported_and_no_others(reader: Visitor, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.carol)
    listed = (await reader.get(f"{HOME}/signals")).text
    bar = listed.split('id="ticked"')[1].split("</form>")[0]
    assert f'action="{HOME}/signals/exports/new"' in bar, "who may only read can export what they ticked"
    assert "Replay…" not in bar
    chosen = sorted([ids["assessed"], ids["failed"]])
    begun = await reader.get(f"{HOME}/signals/exports/new?signal_id={chosen[0]}&signal_id={chosen[1]}")
    assert "The 2 you chose" in text_of(begun)
    assert hidden(begun, f"{HOME}/signals/exports") == [("signal_id", each) for each in chosen]
    unsaid = await reader.post(f"{HOME}/signals/exports", format="pdf", signal_id=chosen)
    assert unsaid.status_code == 400
    assert hidden(unsaid, f"{HOME}/signals/exports") == [("signal_id", each) for each in chosen], "they stay chosen"
    answer = await reader.post(f"{HOME}/signals/exports", format="ndjson", signal_id=chosen)
    await run_batches()
    assert "Chosen one by one" in text_of(await reader.get(answer.headers["location"]))
    file = await reader.get(f"{answer.headers['location']}/file")
    assert sorted(json.loads(line)["id"] for line in file.text.splitlines()) == chosen
    assert (await reader.post(f"{HOME}/signals/exports", format="csv", signal_id="17")).status_code == 400


async def test_a_period_of_an_export_is_fixed_when_it_is_chosen(reader: Visitor, cast: Cast) -> None:
    await reader.sign_in(cast.carol)
    page = await reader.get(f"{HOME}/signals/exports/new?period=24h")
    assert [name for name, _ in hidden(page, f"{HOME}/signals/exports")] == ["since"]


# Refused deliveries


async def refused_one(cast: Cast) -> tuple[Sender, str]:
    sender = await make_sender(cast.alice, name="Shop")
    body = b'{"order": "<i>7</i>"}'
    with pytest.raises(SignatureInvalid):
        await receive(sender.source_id, sender.headers(body, secret="x" * 32), body, IP)
    return sender, str((await run_sql("SELECT id FROM rejected_delivery"))[0]["id"])


async def test_what_was_refused_says_why_and_what_it_was(reader: Visitor, cast: Cast) -> None:
    _, id = await refused_one(cast)
    await reader.sign_in(cast.carol)
    listed = text_of(await reader.get(f"{HOME}/signals/refused"))
    assert "Not verified" in listed
    assert "Shop" in listed
    for question, number in {"cause=signature_invalid": 1, "cause=rate_limited": 0, "cause=nonsense": 1}.items():
        found = await reader.get(f"{HOME}/signals/refused?{question}")
        assert found.text.count("data-row") == number, question
    page = await reader.get(f"{HOME}/signals/refused/{id}")
    assert "Nothing vouches for this" in text_of(page)
    assert "<i>7</i>" in text_of(page)
    assert "<i>7</i>" not in page.text
    assert "Accept it" not in text_of(page), "an auditor accepts nothing"
    assert (await reader.post(f"{HOME}/signals/refused/{id}/accept")).status_code == 403


async def test_a_refused_delivery_is_accepted_once_the_cause_is_mended(reader: Visitor, cast: Cast) -> None:
    sender, id = await refused_one(cast)
    await reader.sign_in(cast.oscar)
    still = await reader.post(f"{HOME}/signals/refused/{id}/accept")
    assert still.status_code == 409
    assert "still cannot be verified" in text_of(still)
    await reader.post(f"{HOME}/sources/{sender.source_id}/secrets", secret="x" * 32, overlap_seconds="")
    accepted = await reader.post(f"{HOME}/signals/refused/{id}/accept")
    signal = await follow(reader, accepted)
    assert "The delivery is accepted" in text_of(signal)
    assert "Accepted later" in text_of(await reader.get(f"{HOME}/signals/refused/{id}"))


async def test_all_of_one_cause_are_accepted_together(reader: Visitor, cast: Cast) -> None:
    sender, id = await refused_one(cast)
    for n in range(3):
        body = json.dumps({"n": n}).encode()
        with pytest.raises(SignatureInvalid):
            await receive(sender.source_id, sender.headers(body, secret="y" * 32), body, IP)
    await reader.sign_in(cast.oscar)
    await reader.post(f"{HOME}/sources/{sender.source_id}/secrets", secret="y" * 32, overlap_seconds="")
    page = text_of(await reader.post(f"{HOME}/signals/refused/{id}/accept-alike"))
    assert "3 deliveries accepted" in page
    assert "1 delivery stays refused" in page


async def test_new_refusals_are_announced_not_inserted(reader: Visitor, cast: Cast) -> None:
    sender, _ = await refused_one(cast)
    await reader.sign_in(cast.carol)
    page = await reader.get(f"{HOME}/signals/refused")
    ask = unescape(re.search(r'hx-get="([^"]+/refused/new[^"]*)"', page.text)[1])
    assert (await reader.get(ask)).text.strip() == ""
    with pytest.raises(SignatureInvalid):
        await receive(sender.source_id, sender.headers(b"{}", secret="x" * 32), b"{}", IP)
    assert "1 new" in text_of(await reader.get(ask))


# How long bodies are kept


async def test_how_long_bodies_are_kept_is_changed_knowingly(reader: Visitor, cast: Cast) -> None:
    path = f"{HOME}/signals/retention"
    await reader.sign_in(cast.alice)
    assert path in (await reader.get(f"{HOME}/signals")).text
    assert "Now: for ever" in text_of(await reader.get(path))
    unaware = await reader.post(path, body_days="30", before="")
    assert unaware.status_code == 400
    assert 'id="error-understood"' in unaware.text
    assert (await reader.post(path, body_days="30", before="", understood="yes")).status_code == 303
    assert "Now: 30 days" in text_of(await reader.get(path))
    stale = await reader.post(path, body_days="7", before="", understood="yes")
    assert stale.status_code == 412
    assert (await reader.post(path, body_days="0", before="30", understood="yes")).status_code == 400
    assert (await reader.post(path, body_days="x", before="30", understood="yes")).status_code == 400
    await reader.sign_in(cast.oscar)
    assert (await reader.get(path)).status_code == 403
    assert path not in (await reader.get(f"{HOME}/signals")).text
