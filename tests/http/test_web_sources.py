"""Sources as people use them with forms alone: connected by a pasted request or a form, watched, mended."""

import asyncio
import json
import re
import subprocess
from html import unescape
from typing import Any

import httpx
import pytest

from portal.db.engine import run_sql, transaction
from portal.signals.errors import RateLimited, SignatureInvalid
from portal.signals.health.tallies import tally
from portal.signals.health.watching import watch_sources
from portal.signals.intake.service import receive
from portal.signals.jobs import run_batches
from portal.signals.json_schemas.queries import find_schema
from portal.signals.json_schemas.service import set_schema
from portal.signals.pulls.jobs import pull_sources
from tests.actions import make_stage, settings_chain
from tests.http.test_web_pages import Reader, text_of
from tests.http.test_web_rooms import HOME, NOWHERE, Visitor, copied
from tests.people import Cast
from tests.pulls import Reply, egress_allowed, running_api
from tests.signals import IP, Headers, Sender, github_headers, make_sender, sign

SECRET = "a secret of thirty-one letters."
SENDER = {"header": "X-Acme-Signature", "signed": "{timestamp}.{body}", "timestamp_header": "X-Acme-Time"}
BODY = json.dumps({"id": "evt_7", "type": "order.paid", "order": {"total": "12.00", "lines": [1, 2]}})


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


def as_curl(headers: Headers, body: str = BODY) -> str:
    """What a sender's page offers to copy."""
    options = " ".join(f"-H '{name.decode()}: {value.decode()}'" for name, value in headers)
    return f"curl https://hooks.example.org/in {options} -d '{body}'"


def fields_of(page: httpx.Response) -> dict[str, str]:
    """What the form of a source would send as it stands on the page."""
    found = {
        unescape(re.search(r'name="([^"]+)"', tag)[1]): unescape((re.search(r' value="([^"]*)"', tag) or ["", ""])[1])
        for tag in re.findall(r"<input [^>]*>", page.text)
        if 'name="' in tag and "checkbox" not in tag and "known_secret" not in tag
    }
    for name, inner in re.findall(r'<textarea [^>]*name="([^"]+)"[^>]*>(.*?)</textarea>', page.text, re.S):
        found[name] = unescape(inner)
    for name, inner in re.findall(r'<select [^>]*name="([^"]+)"[^>]*>(.*?)</select>', page.text, re.S):
        chosen = re.search(r'<option value="([^"]*)" selected', inner) or re.search(r'<option value="([^"]*)"', inner)
        found[name] = unescape(chosen[1])
    return {name: value for name, value in found.items() if name not in ("csrf_token", "request", "theme", "next")}


async def paste(reader: Reader, text: str, secret: str = "") -> httpx.Response:
    return await reader.post(f"{HOME}/sources/recognise", request=text, known_secret=secret)


async def source_named(name: str) -> dict[str, Any]:
    rows = await run_sql("SELECT id, scheme, settings FROM source WHERE name = {}", name)
    assert rows, "there is no such source"
    return {**rows[0], "settings": json.loads(rows[0]["settings"])}


async def run_line(reader: Reader, line: str) -> httpx.Response:
    """What a shell would send for a line that a page offers. The shell signs, and a `curl` of ours writes it down."""
    spoken = "curl() { printf '%s\\0' \"$@\"; }\n" + line
    asked = await asyncio.to_thread(subprocess.run, ["bash", "-c", spoken], capture_output=True, check=True, text=True)
    arguments = asked.stdout.split("\0")
    headers = dict(arguments[n + 1].split(": ", 1) for n, word in enumerate(arguments) if word == "-H")
    body = arguments[arguments.index("-d") + 1]
    return await reader.http.post(arguments[1], content=body, headers=headers)


def problem_at(page: httpx.Response, field: str) -> str:
    """What the page says at a field; the field is marked and leads to it."""
    assert f'aria-describedby="error-{field}"' in page.text, f"nothing is wrong at {field}"
    return text_of(httpx.Response(200, text=page.text.split(f'id="error-{field}">')[1].split("</p>")[0]))


# The wizard


async def test_the_wizard_offers_every_kind_of_sender(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    page = await reader.get(f"{HOME}/sources/new")
    offered = re.findall(r'\?scheme=([a-z_0-9]+)"', page.text)
    assert sorted(offered) == sorted(
        [
            "github",
            "stripe",
            "shopify",
            "slack",
            "twilio",
            "standard_webhooks",
            "svix",
            "hmac",
            "ed25519",
            "bearer",
            "basic",
            "poll",
            "evm_logs",
        ]
    )
    for scheme in offered:
        form = await reader.get(f"{HOME}/sources/new?scheme={scheme}")
        assert form.status_code == 200
        assert f'name="scheme" value="{scheme}"' in form.text
    assert (await reader.get(f"{HOME}/sources/new?scheme=morse")).status_code == 404


async def test_a_pasted_request_of_a_known_sender_fills_the_form(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    text = as_curl(github_headers(BODY.encode(), SECRET, id="72d3162e", event="issues"))
    page = await paste(reader, text, SECRET)
    shown = text_of(page)
    assert page.status_code == 200
    assert "The signature is right." in shown
    assert "x-hub-signature-256" in shown
    assert "72d3162e" in shown
    assert "payload.order.total" in copied(page), "the body is drawn as a tree"
    form = fields_of(page)
    assert (form["scheme"], form["secret"], form["name"]) == ("github", SECRET, "GitHub")
    assert "with_schema" not in form, "nothing is checked unless somebody wants it"
    assert (await run_sql("SELECT count(*) AS n FROM source"))[0]["n"] == 0, "looking stores nothing"
    made = await reader.post(f"{HOME}/sources/new", **form)
    assert "GitHub is connected" in text_of(made)
    assert SECRET[-4:] in text_of(made)
    answer = await run_line(reader, copied(made)[-1])
    assert answer.status_code == 202, answer.text


async def test_how_an_unknown_sender_signs_is_found_out(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    headers = sign("hmac", SENDER, SECRET, BODY.encode(), id="", at=1_700_000_000)
    page = await paste(reader, as_curl(headers), SECRET)
    shown = text_of(page)
    assert "The signature is right." in shown
    assert "x-acme-signature holds HMAC-SHA256 of {timestamp}.{body}, in hex" in shown
    assert "years ago" in shown or "days ago" in shown
    form = fields_of(page)
    assert form["settings/signed"] == "{timestamp}.{body}"
    assert form["settings/id_pointer"] == "/id"
    await reader.post(f"{HOME}/sources/new", **{**form, "name": "Acme's shop"})
    source = await source_named("Acme's shop")
    receipt = await receive(source["id"], sign("hmac", SENDER, SECRET, BODY.encode(), id=""), BODY.encode(), IP)
    assert receipt.status == "received"


async def test_a_wrong_secret_and_none_are_said(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    text = as_curl(github_headers(BODY.encode(), SECRET, id="1"))
    wrong = await paste(reader, text, "a secret of somebody else")
    assert "The secret did not make this signature." in text_of(wrong)
    assert "The signature is right" not in text_of(wrong)
    unknown = await paste(reader, text)
    assert "Give the secret, too, and the signature is checked" in text_of(unknown)
    assert unescape(unknown.text).count(text) == 1, "what was pasted stays"


async def test_what_proves_nothing_leads_to_the_choices(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    page = await paste(reader, '{"hello": "<b>world</b>"}')
    assert page.status_code == 200
    assert "The sender was not recognised." in text_of(page)
    assert "<b>world</b>" not in page.text
    assert "?scheme=bearer" in page.text
    empty = await paste(reader, "")
    assert empty.status_code == 400
    assert problem_at(empty, "request") == "Paste a request here first."


async def test_the_shape_of_a_pasted_body_is_checked_from_the_start(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    headers = sign("hmac", SENDER, SECRET, BODY.encode(), id="")
    form = {**fields_of(await paste(reader, as_curl(headers), SECRET)), "name": "Shop", "with_schema": "yes"}
    broken = await reader.post(f"{HOME}/sources/new", **{**form, "schema": '{"type": "objekt"}'})
    assert broken.status_code == 400
    assert "At /type" in problem_at(broken, "schema")
    assert (await run_sql("SELECT count(*) AS n FROM source"))[0]["n"] == 0
    await reader.post(f"{HOME}/sources/new", **form)
    source = await source_named("Shop")
    other = b'{"id": "evt_8", "type": "order.paid", "order": {"total": 12, "lines": []}}'
    receipt = await receive(source["id"], sign("hmac", SENDER, SECRET, other, id=""), other, IP)
    assert receipt.status == "quarantined"


async def test_without_the_wish_nothing_is_checked(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    headers = sign("hmac", SENDER, SECRET, BODY.encode(), id="")
    form = {**fields_of(await paste(reader, as_curl(headers), SECRET)), "name": "Shop"}
    await reader.post(f"{HOME}/sources/new", **form)
    source = await source_named("Shop")
    assert await find_schema(cast.alice.actor.organization_id, source["id"], "order.paid") is None


# The forms


@pytest.mark.parametrize("scheme", ["github", "standard_webhooks"])
async def test_a_source_is_connected_and_its_curl_line_works(reader: Reader, cast: Cast, scheme: str) -> None:
    await reader.sign_in(cast.oscar)
    made = await reader.post(f"{HOME}/sources/new", name="Shop", scheme=scheme, secret="")
    assert made.status_code == 200
    (url, *_), line = copied(made), copied(made)[-1]
    secret = copied(made)[1]
    first = re.search(r'hx-get="([^"]+/first)"', made.text)[1]
    assert "Waiting for the first delivery" in text_of(await reader.get(first))
    answer = await run_line(reader, line)
    assert answer.status_code == 202, answer.text
    arrived = await reader.get(first)
    assert "A signal of type ping arrived" in text_of(arrived)
    assert "/schemas/ping" in arrived.text, "the next steps are offered"
    page = await reader.get(url.replace("http://127.0.0.1:8000/api/v1/", f"{HOME}/").removesuffix("/signals"))
    assert "Shop" in text_of(page)
    assert secret not in page.text, "it is shown only once"
    assert secret[-4:] in page.text


async def test_a_refusal_shows_while_the_first_is_awaited(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    await refuse(sender, "evil-<1>")
    await reader.sign_in(cast.oscar)
    shown = text_of(await reader.get(f"{HOME}/sources/{sender.source_id}/first"))
    assert "Waiting for the first delivery" in shown
    assert "A delivery was refused" in shown
    assert "made with another secret" in shown


async def test_a_sender_that_makes_its_secret_gives_it_afterwards(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    made = await reader.post(f"{HOME}/sources/new", name="Stripe", scheme="stripe", secret="")
    assert "Stripe shows its own signing secret once it has the address" in text_of(made)
    source = await source_named("Stripe")
    path = f"{HOME}/sources/{source['id']}"
    added = await reader.post(f"{path}/secrets", secret="whsec_of_stripes_own_making", overlap_seconds="0")
    assert added.headers["location"] == f"{path}?done=secret_added"
    body = b'{"id": "evt_1", "type": "invoice.paid"}'
    receipt = await receive(source["id"], sign("stripe", {}, "whsec_of_stripes_own_making", body, id=""), body, IP)
    assert receipt.status == "received"


async def test_what_is_wrong_with_a_new_source_is_said_at_its_field(reader: Reader, cast: Cast) -> None:
    await make_sender(cast.alice, name="Shop")
    await reader.sign_in(cast.alice)
    short = await reader.post(f"{HOME}/sources/new", name="ERP <1>", scheme="github", secret="short")
    assert short.status_code == 400
    assert "16 to 256" in problem_at(short, "secret")
    assert 'value="ERP &lt;1&gt;"' in short.text, "what was typed is kept"
    assert "fill this in" in problem_at(await reader.post(f"{HOME}/sources/new", name="", scheme="github"), "name")
    assert (await reader.post(f"{HOME}/sources/new", name="X", scheme="morse")).status_code == 400
    taken = await reader.post(f"{HOME}/sources/new", name="Shop", scheme="github")
    assert taken.status_code == 409
    assert "There is a source named Shop already" in text_of(taken)


NO_CHOICES = ("octal", "magic", "5")
POLL = {"settings/url": "https://api.example.org/orders"}


@pytest.mark.parametrize(
    ("scheme", "wrong", "where"),
    [
        ("hmac", {}, ("settings/header", "needed")),
        ("hmac", {"settings/header": "X Signature"}, ("settings/header", "name of a header")),
        ("hmac", {"settings/header": "X-S", "settings/signed": "{when}"}, ("settings/signed", "There is no {when}")),
        (
            "hmac",
            {"settings/header": "X-S", "settings/tolerance_seconds": "soon"},
            ("settings/tolerance_seconds", "whole"),
        ),
        ("hmac", {"settings/header": "X-S", "settings/encoding": "octal"}, ("settings/encoding", "must be one of")),
        ("ed25519", {"settings/header": "X-S"}, ("secret", "public key")),
        ("basic", {"settings/username": "a:b"}, ("settings/username", "without a colon")),
        ("poll", {"settings/url": "http://10.0.0.1/"}, ("settings/url", "https")),
        ("poll", {**POLL, "settings/interval_seconds": "1"}, ("settings/interval_seconds", "5")),
        ("poll", {**POLL, "settings/paging/by": "cursor"}, ("settings/paging/next", "needed")),
        (
            "poll",
            {**POLL, "settings/paging/by": "since", "settings/paging/value": "at"},
            ("settings/paging/value", "Pointer"),
        ),
        ("poll", {**POLL, "settings/paging/by": "magic"}, ("settings/paging/by", "Choose")),
        ("github", {"allowed_networks": "10.0.0.0/8\n\nnowhere"}, ("allowed_networks", "'nowhere' is no address")),
        ("github", {"rate_limit_per_minute": "0"}, ("rate_limit_per_minute", "At least 1")),
        ("github", {"rate_limit_per_minute": "many"}, ("rate_limit_per_minute", "whole number")),
        ("github", {"expected_every_seconds": "5"}, ("expected_every_seconds", "At least 60")),
        ("github", {"body_cap_bytes": "1"}, ("body_cap_bytes", "At least 1,024")),
    ],
)
async def test_each_setting_says_what_is_wrong_with_it(
    reader: Reader, cast: Cast, scheme: str, wrong: dict[str, str], where: tuple[str, str]
) -> None:
    field, said = where
    await reader.sign_in(cast.oscar)
    page = await reader.post(f"{HOME}/sources/new", name="Shop", scheme=scheme, **wrong)
    assert page.status_code == 400
    assert said.lower() in problem_at(page, field).lower()
    kept = fields_of(page)
    for name, text in wrong.items():
        assert kept[name] == text or text in NO_CHOICES, f"what was typed into {name} is kept"


async def test_every_setting_travels_from_the_form_and_back(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    given = {
        "settings/header": "X-Acme-Signature",
        "settings/signed": "v1\r\n{timestamp}.{body}",
        "settings/prefix": "sig ",
        "settings/encoding": "base64",
        "settings/algorithm": "sha512",
        "settings/key_encoding": "hex",
        "settings/timestamp_header": "X-Acme-Time",
        "settings/timestamp_unit": "milliseconds",
        "settings/tolerance_seconds": "60",
        "settings/id_header": "X-Id",
        "settings/type_pointer": "/event",
        "allowed_networks": "192.0.2.0/24\r\n2001:db8::/32",
        "rate_limit_per_minute": "100",
        "expected_every_seconds": "3600",
        "on_schema_failure": "refuse",
        "body_cap_bytes": "65536",
    }
    made = await reader.post(f"{HOME}/sources/new", name="Shop", scheme="hmac", secret="", **given)
    assert made.status_code == 200, text_of(made)
    source = await source_named("Shop")
    expected = {name.removeprefix("settings/"): text for name, text in given.items() if "settings/" in name}
    expected |= {"header": "x-acme-signature", "timestamp_header": "x-acme-time", "id_header": "x-id"}
    expected |= {"signed": "v1\n{timestamp}.{body}"}
    kept = {name: str(value) for name, value in source["settings"].items() if value is not None}
    assert kept == expected
    editor = await reader.get(f"{HOME}/sources/{source['id']}/edit")
    saved = await reader.post(f"{HOME}/sources/{source['id']}/edit", **{**fields_of(editor), "name": "Shop two"})
    assert saved.status_code == 303, text_of(saved)
    assert await source_named("Shop two") == source, "saving what is there changes nothing"
    shown = text_of(await reader.get(f"{HOME}/sources/{source['id']}"))
    assert "100 a minute" in shown
    assert "192.0.2.0/24" in shown


async def test_a_token_stands_after_what_the_form_says(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    form = fields_of(await reader.get(f"{HOME}/sources/new?scheme=bearer"))
    assert form["settings/prefix"] == "Bearer ", "with its space"
    await reader.post(f"{HOME}/sources/new", **{**form, "name": "ERP"})
    assert (await source_named("ERP"))["settings"]["prefix"] == "Bearer "
    key = {"settings/header": "X-API-Key", "settings/prefix": ""}
    await reader.post(f"{HOME}/sources/new", **{**form, **key, "name": "Other"})
    assert (await source_named("Other"))["settings"]["prefix"] == ""


async def test_limits_are_set_and_taken_away(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop", rate_limit_per_minute=1, expected_every_seconds=3600)
    path = f"{HOME}/sources/{sender.source_id}"
    await sender.deliver({"n": 1})
    with pytest.raises(RateLimited):
        await sender.deliver({"n": 2})
    await reader.sign_in(cast.oscar)
    form = fields_of(await reader.get(f"{path}/edit"))
    assert (form["rate_limit_per_minute"], form["expected_every_seconds"]) == ("1", "3600")
    await reader.post(f"{path}/edit", **{**form, "rate_limit_per_minute": "", "expected_every_seconds": ""})
    await sender.deliver({"n": 3})
    shown = text_of(await reader.get(path))
    assert "No limit" in shown
    assert "No alarm" in shown


async def test_two_who_change_a_source_do_not_undo_each_other(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    path = f"{HOME}/sources/{sender.source_id}/edit"
    await reader.sign_in(cast.oscar)
    form = fields_of(await reader.get(path))
    await reader.post(path, **{**form, "name": "Of the first"})
    late = await reader.post(path, **{**form, "name": "Of the second"})
    assert late.status_code == 412
    assert "changed since you read it" in text_of(late)
    assert (await source_named("Of the first"))["id"] == sender.source_id
    assert (await reader.post(path, **{**form, "version": "nonsense"})).status_code == 400


# One source


async def refuse(sender: Sender, id: str) -> None:
    with pytest.raises(SignatureInvalid):
        await receive(sender.source_id, github_headers(b"{}", "not the secret", id=id), b"{}", IP)


async def source_page(reader: Reader, sender: Sender) -> str:
    return text_of(await reader.get(f"{HOME}/sources/{sender.source_id}"))


async def test_a_source_is_paused_and_resumed(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    path = f"{HOME}/sources/{sender.source_id}"
    await reader.sign_in(cast.oscar)
    assert (await reader.post(f"{path}/pause")).headers["location"] == f"{path}?done=source_paused"
    assert "Paused. Its deliveries are refused" in await source_page(reader, sender)
    assert (await reader.post(f"{path}/pause")).status_code == 409
    await reader.post(f"{path}/resume")
    assert "Active" in await source_page(reader, sender)


async def test_secrets_are_rotated(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    path = f"{HOME}/sources/{sender.source_id}"
    await reader.sign_in(cast.oscar)
    only = (await run_sql("SELECT id FROM source_secret"))[0]["id"]
    assert (await reader.post(f"{path}/secrets/{only}/end")).status_code == 409
    wrong = await reader.post(f"{path}/secrets", secret="short", overlap_seconds="")
    assert "16 to 256" in problem_at(wrong, "secret")
    added = await reader.post(f"{path}/secrets", secret="", overlap_seconds="86400")
    assert "shown only this once" in text_of(added)
    await sender.deliver({"signed": "with the old one"})
    first = re.findall(rf'hx-get="({path}/first[^"]+)"', added.text)[0]
    assert "signed with the new secret" in text_of(await reader.get(first)), (
        "what the old secret signed is no sign of it"
    )
    fresh = re.findall(r'data-copy="([^"]+)" aria-label="Copy the secret"', added.text)[0]
    body = b'{"n": 2}'
    await receive(sender.source_id, sender.headers(body, secret=fresh), body, IP)
    assert "The new secret was used" in text_of(await reader.get(first))
    assert "Ends in" in await source_page(reader, sender)
    ended = await reader.post(f"{path}/secrets/{only}/end")
    assert ended.headers["location"] == f"{path}?done=secret_ended"
    with pytest.raises(SignatureInvalid):
        await sender.deliver({})


async def test_refused_deliveries_are_told_by_their_cause(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    path = f"{HOME}/sources/{sender.source_id}"
    await refuse(sender, "evil-1")
    await refuse(sender, "evil-2")
    await tally(seconds=1)
    await reader.sign_in(cast.carol)
    shown = await source_page(reader, sender)
    assert re.search("Not verified 2.", shown)
    assert "made with another secret" in shown
    newest = re.search(r'href="([^"]+/signals/refused/[^"]+)"', (await reader.get(path)).text)[1]
    delivery = text_of(await reader.get(newest))
    assert "evil-2" in delivery
    assert "x-github-delivery , x-github-event , x-hub-signature-256" in delivery
    assert "not the secret" not in delivery
    assert "Accept all" not in shown, "an auditor looks only"
    assert not re.search(r"\bPause\b", shown)
    listed = await reader.get(f"{HOME}/sources")
    assert re.search(r'#refused">2</a>', listed.text)


async def test_all_of_one_cause_are_accepted_from_the_page(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    path = f"{HOME}/sources/{sender.source_id}"
    await reader.sign_in(cast.oscar)
    await reader.post(f"{path}/pause")
    for n in range(2):
        with pytest.raises(Exception, match="paused"):
            await sender.deliver({"n": n})
    await reader.post(f"{path}/resume")
    page = await reader.get(path)
    accept = re.search(r'action="([^"]+/accept-alike)"', page.text)[1]
    assert "2 deliveries accepted" in text_of(await reader.post(accept))
    assert "All that were refused have been accepted since" in await source_page(reader, sender)


async def rewrite(sql: str, *arguments: Any) -> None:
    """Change what the database lets nobody change."""
    async with transaction():
        await run_sql("SET LOCAL session_replication_role = replica")
        await run_sql(sql, *arguments)


async def test_a_source_that_went_quiet_says_so_everywhere(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop", expected_every_seconds=3600)
    await sender.deliver({"n": 1})
    await sender.deliver({"n": 2})
    await reader.sign_in(cast.carol)
    assert "Signals come as usual." in await source_page(reader, sender)
    await rewrite("UPDATE signal SET received_at = received_at - interval '3 hours'")
    await rewrite("UPDATE source SET updated_at = updated_at - interval '4 hours'")
    assert await watch_sources() == 1
    shown = await source_page(reader, sender)
    assert "Quiet" in shown
    assert "Nothing for 3 hours" in shown
    assert "Usually one comes" in shown
    assert "Quiet" in text_of(await reader.get(f"{HOME}/sources"))
    overview = await reader.get(f"{HOME}/overview")
    assert "Shop has gone quiet: nothing for 3 hours" in text_of(overview)
    assert f'href="{HOME}/sources/{sender.source_id}"' in overview.text
    assert f'href="{HOME}/sources/{sender.source_id}"' in (await reader.get(f"{HOME}/health")).text
    await sender.deliver({"n": 3})
    await watch_sources()
    assert "Nothing for" not in await source_page(reader, sender)


async def test_types_are_counted_and_quarantined_ones_checked_again(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    await set_schema(cast.alice.actor, sender.source_id, "orders/paid", {"required": ["total"]})
    for n in range(3):
        await sender.deliver({"n": n}, event="orders/paid")
    await sender.deliver({"n": 4}, event="star")
    await reader.sign_in(cast.oscar)
    page = await reader.get(f"{HOME}/sources/{sender.source_id}")
    shown = text_of(page)
    assert "orders/paid 3 just now Version 1" in shown
    assert "star 1 just now Set a schema" in shown
    assert "3 signals wait in quarantine" in shown
    started = await reader.post(f"{HOME}/signals/rechecks", source_id=str(sender.source_id), status="quarantined")
    assert "/signals/rechecks/" in started.headers["location"]


async def test_a_source_of_another_organisation_is_not_there(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice)
    await reader.sign_in(cast.dave)
    path = f"/orgs/other/sources/{sender.source_id}"
    for verb in ("", "/first", "/edit", "/schemas?type=order", "/schemas/order"):
        assert (await reader.get(f"{path}{verb}")).status_code == 404, verb
    for verb in ("/edit", "/pause", "/resume", "/secrets", "/pull", "/schemas/order"):
        answer = await reader.post(f"{path}{verb}", name="Mine", body_cap_bytes="65536", do="propose")
        assert answer.status_code == 404, verb


# Pulled sources


async def test_an_api_is_asked_and_says_where_it_stands(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.oscar)
    with egress_allowed("127.0.0.0/8"), running_api() as api:
        api.say = lambda _: Reply({"data": [{"id": 1, "type": "order.paid"}], "next": None})
        form = fields_of(await reader.get(f"{HOME}/sources/new?scheme=poll")) | {
            "name": "Orders",
            "secret": "token",
            "settings/url": f"{api.url}/orders",
            "settings/items": "/data",
            "settings/id": "/id",
            "settings/paging/by": "cursor",
            "settings/paging/next": "/next",
            "settings/paging/newest_first": "true",
        }
        made = await reader.post(f"{HOME}/sources/new", **form)
        path = made.headers["location"].removesuffix("?done=source_created")
        settings = (await source_named("Orders"))["settings"]
        assert settings["paging"] == {"by": "cursor", "next": "/next", "parameter": "cursor", "newest_first": True}
        await pull_sources()
        shown = text_of(await reader.get(path))
        assert "order.paid 1" in shown
        assert "All read; from the first page on" in shown
        assert "Refused deliveries" not in shown, "nobody delivers to it"
        api.say = lambda _: Reply({}, status=500)
        asked = await reader.post(f"{path}/pull")
        assert asked.headers["location"] == f"{path}?done=pull_requested"
        await pull_sources()
        failed = text_of(await reader.get(path))
        assert "The last pull failed." in failed
        assert "500" in failed
        editor = await reader.get(f"{path}/edit")
        saved = await reader.post(f"{path}/edit", **fields_of(editor))
        assert saved.status_code == 303
        assert (await source_named("Orders"))["settings"] == settings, "saving what is there changes nothing"
        await reader.post(f"{path}/pull", from_start="yes")
        assert "From the start of the list." in text_of(await reader.get(path))


async def test_events_are_chosen_from_the_contract_itself(reader: Reader, cast: Cast) -> None:
    async with settings_chain() as node:
        await make_stage(cast, node)
        await reader.sign_in(cast.oscar)
        page = await reader.get(f"{HOME}/sources/new?scheme=evm_logs")
        choice = re.search(r'<option value="([^"]+ Transfer\([^"]+)"', page.text)[1]
        form = fields_of(page) | {"name": "Moved", "settings/from_block": "0"}
        for wrong, said in (("", "Choose an event"), (f"{NOWHERE} Transfer", "no such contract"), ("x", "Choose")):
            refused = await reader.post(f"{HOME}/sources/new", **{**form, "settings/event": wrong})
            assert said in problem_at(refused, "settings/event")
        form["settings/event"] = unescape(choice)
        made = await reader.post(f"{HOME}/sources/new", **form)
        assert made.status_code == 303, text_of(made)
        settings = (await source_named("Moved"))["settings"]
        assert settings["event"] == "Transfer(address,address,uint256)"
        assert settings["from_block"] == 0
        path = made.headers["location"].removesuffix("?done=source_created")
        editor = await reader.get(f"{path}/edit")
        assert fields_of(editor)["settings/event"] == unescape(choice)
        shown = text_of(await reader.get(path))
        assert "From block 0 on." in shown
        assert "Contract Acme Points Event Transfer" in shown


async def test_a_name_that_is_taken_is_said_at_its_field(reader: Reader, cast: Cast) -> None:
    await make_sender(cast.alice, name="Shop")
    await reader.sign_in(cast.oscar)
    again = await reader.post(f"{HOME}/sources/new", scheme="github", name="Shop", body_cap_bytes="1048576")
    assert "There is a source named Shop already" in problem_at(again, "name")
    assert '<a href="#field-name">Go to the field</a>' in again.text


# Schemas


async def test_from_a_quarantined_signal_to_its_schema_and_back(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    type = "orders/paid:eu"
    await set_schema(cast.alice.actor, sender.source_id, type, {"required": ["n"]})
    receipt = await sender.deliver({"m": 1}, event=type)
    await sender.deliver({"n": 1}, event=type)
    await reader.sign_in(cast.oscar)
    shown = (await reader.get(f"{HOME}/signals/{receipt.signal_id}")).text
    path = re.findall(r'<a href="([^"]+)">Mend the schema</a>', shown)[0]
    assert f"Schema of {type}" in text_of(await reader.get(path))
    done = await reader.post(path, do="set", schema='{"type": "object"}')
    mended = await reader.get(done.headers["location"].partition("?done")[0])
    assert "Version 2 is in force" in text_of(mended)
    assert "1 signal waits in quarantine" in text_of(mended)
    form = mended.text.split(f'action="{HOME}/signals/rechecks"')[1].split("</form>")[0]
    given = dict(re.findall(r'name="([^"]+)" value="([^"]*)"', form))
    assert given.pop("csrf_token") is not None
    assert {name: unescape(value) for name, value in given.items()} == {
        "source_id": str(sender.source_id),
        "type": type,
        "status": "quarantined",
    }
    await reader.post(f"{HOME}/signals/rechecks", **{name: unescape(value) for name, value in given.items()})
    await run_batches()
    assert "in quarantine" not in text_of(await reader.get(path)).replace("wait in quarantine", "")


async def test_a_schema_is_proposed_tried_put_in_force_and_ended(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    for n in range(3):
        await sender.deliver({"n": n}, event="orders/paid")
    await sender.deliver({"n": "four"}, id="the-odd-one", event="orders/paid")
    path = f"{HOME}/sources/{sender.source_id}/schemas/orders/paid"
    await reader.sign_in(cast.oscar)
    assert "None is in force" in text_of(await reader.get(path))
    proposed = await reader.post(path, do="propose", schema="")
    assert "Proposed from 4 signals" in text_of(proposed)
    assert (await run_sql("SELECT count(*) AS n FROM signal_schema"))[0]["n"] == 0
    own = '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    tried = await reader.post(path, do="try", schema=own)
    shown = text_of(tried)
    assert "3 of 4 pass." in shown
    assert "the-odd-one" in shown
    assert "/n This must be of type integer." in shown
    assert json.loads(fields_of(tried)["schema"]) == json.loads(own), "what was typed is kept"
    assert (await reader.post(path, do="set", schema=own)).headers["location"] == f"{path}?done=schema_set"
    quarantined = await sender.deliver({"n": "five"}, event="orders/paid")
    assert quarantined.status == "quarantined"
    await reader.post(path, do="set", schema='{"type": "object", "properties": {"n": {}}}')
    versions = text_of(await reader.get(path))
    assert "Version 2 In force" in versions
    assert "by oscar@" in versions
    assert "/properties/n/type: taken out" in versions
    assert (await reader.post(path, do="end")).headers["location"] == f"{path}?done=schema_ended"
    assert "nothing is checked any more" in text_of(await reader.get(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("{", "not JSON"),
        ("[]", "a JSON object"),
        ('{"type": "objekt"}', "At /type"),
        ('{"properties": {"a": {"pattern": "("}}}', "At /properties/a/pattern"),
        ('{"$ref": "https://example.org/schema"}', "none from elsewhere is fetched"),
    ],
)
async def test_what_is_no_schema_is_said_with_its_place(reader: Reader, cast: Cast, text: str, said: str) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    path = f"{HOME}/sources/{sender.source_id}/schemas/order"
    await reader.sign_in(cast.oscar)
    for do in ("try", "set"):
        page = await reader.post(path, do=do, schema=text)
        assert page.status_code == 400
        assert said in problem_at(page, "schema")
        assert unescape(page.text).count(text) >= 1


async def test_there_is_nothing_to_propose_from_and_no_such_type(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    path = f"{HOME}/sources/{sender.source_id}/schemas"
    await reader.sign_in(cast.oscar)
    nothing = await reader.post(f"{path}/order", do="propose")
    assert nothing.status_code == 409
    assert "Send some, then ask again" in text_of(nothing)
    assert (await reader.get(f"{path}?type=orders/paid")).headers["location"] == f"{path}/orders/paid"
    assert (await reader.get(f"{path}?type=%20no%20type")).status_code == 400
    assert (await reader.post(f"{path}/order", do="magic")).status_code == 400


async def test_an_auditor_reads_schemas_and_changes_none(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    await set_schema(cast.alice.actor, sender.source_id, "order", {"required": ["total"]})
    path = f"{HOME}/sources/{sender.source_id}/schemas/order"
    await reader.sign_in(cast.carol)
    shown = await reader.get(path)
    assert "Version 1 In force" in text_of(shown)
    assert "Put in force" not in text_of(shown)
    assert (await reader.post(path, do="end")).status_code == 403
