"""The rooms of a member, as people use them with forms alone: no JavaScript runs here."""

import json
import re
from collections.abc import AsyncIterator
from html import unescape
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from portal.accounts.sessions import sign_in
from portal.chain.queries import get_contract
from portal.chain.signers import make_pending_keys
from portal.db.engine import run_sql
from portal.rules.service import assess
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.queries import find_transaction_of_action
from tests.actions import Stage, make_stage, settings_chain
from tests.http.test_web_pages import Reader, text_of
from tests.people import Cast, Player
from tests.rules import RuleStage, make_rule_stage
from tests.signals import make_sender, sponsorship

HOME = "/orgs/acme"
ROOMS = {
    "signals": "No signal yet",
    "sources": "No source yet",
    "rules": "No rule yet",
    "transactions": "No transaction yet",
    "lanes": "No lane yet",
    "pauses": "Nothing is paused",
    "policies": "No policy yet",
    "contracts": "No contract yet",
    "signers": "No signer yet",
    "chains": "No chain yet",
    "end-users": "No end user yet",
    "api-keys": "No API key yet",
    "webhooks": "No webhook yet",
    "audit": "Audit",
    "health": "Health",
}
NOWHERE = "00000000-0000-0000-0000-000000000000"


class Visitor(Reader):
    """Nobody approves here, so the present code may be spent: the next moment of the clock still accepts it."""

    async def sign_in(self, player: Player) -> None:
        session = await sign_in(player.email, player.password, player.code(), ip="127.0.0.1", user_agent="test")
        self.token = session.token


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


@pytest_asyncio.fixture
async def stage(cast: Cast) -> AsyncIterator[Stage]:
    async with settings_chain() as node:
        yield await make_stage(cast, node)


@pytest_asyncio.fixture
async def written(cast: Cast) -> RuleStage:
    return await make_rule_stage(cast)


def copied(answer: httpx.Response) -> list[str]:
    """What the copy buttons of a page would copy."""
    return [unescape(value) for value in re.findall(r'data-copy="([^"]*)"', answer.text)]


@pytest.mark.parametrize("room", ROOMS)
async def test_an_empty_room_says_what_belongs_there(reader: Reader, cast: Cast, room: str) -> None:
    await reader.sign_in(cast.carol)
    page = await reader.get(f"{HOME}/{room}")
    assert page.status_code == 200
    assert ROOMS[room] in text_of(page)
    assert " style=" not in page.text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page.text), "no inline script"
    assert not re.search(r"\son[a-z]+=", page.text), "no inline handler"


@pytest.mark.parametrize("room", ROOMS)
async def test_a_room_is_not_there_for_strangers(reader: Reader, cast: Cast, room: str) -> None:
    assert (await reader.get(f"{HOME}/{room}")).headers["location"].startswith("/login")
    await reader.sign_in(cast.dave)
    assert (await reader.get(f"{HOME}/{room}")).status_code == 404


@pytest.mark.parametrize("room", ["signals", "sources", "rules", "transactions", "policies", "contracts", "end-users"])
async def test_what_does_not_exist_is_a_page_that_says_so(reader: Reader, cast: Cast, room: str) -> None:
    await reader.sign_in(cast.alice)
    page = await reader.get(f"{HOME}/{room}/{NOWHERE}")
    assert page.status_code == 404
    assert page.headers["x-correlation-id"] in page.text


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in ("health", "chains")])
async def test_a_cursor_that_no_list_gave_is_refused(reader: Reader, cast: Cast, room: str) -> None:
    await reader.sign_in(cast.alice)
    page = await reader.get(f"{HOME}/{room}?cursor=nonsense!")
    assert page.status_code == 400
    assert "not a cursor" in text_of(page)


@pytest.mark.parametrize(
    "path",
    [
        "sources/new",
        "rules/new",
        "rules/draft",
        "policies/new",
        "contracts/new",
        "contracts/deploy",
        "signers",
        "api-keys",
        f"signals/{NOWHERE}/assess",
        f"sources/{NOWHERE}/edit",
        f"sources/{NOWHERE}/pull",
        f"sources/{NOWHERE}/schemas/order",
        "sources/recognise",
        f"sources/{NOWHERE}/secrets",
        f"sources/{NOWHERE}/secrets/{NOWHERE}/end",
        f"sources/{NOWHERE}/pause",
        f"sources/{NOWHERE}/resume",
        f"rules/{NOWHERE}/edit",
        f"rules/{NOWHERE}/publish",
        f"rules/{NOWHERE}/disable",
        f"policies/{NOWHERE}",
        f"end-users/{NOWHERE}/invite",
        f"api-keys/{NOWHERE}/revoke",
    ],
)
async def test_an_auditor_changes_nothing(reader: Reader, cast: Cast, path: str) -> None:
    await reader.sign_in(cast.carol)
    assert (await reader.post(f"{HOME}/{path}", name="x")).status_code == 403


# Signals


async def deliver_some(stage: RuleStage) -> dict[str, str]:
    """One signal that matched, one that did not, one that is no JSON, one that a rule failed on; ids by state."""
    await stage.publish()
    await stage.publish(name="Fails", condition='signal.type == "broken" && payload.missing.field == 1')
    matched = await stage.sender.deliver(sponsorship())
    ignored = await stage.sender.deliver({"note": "a <b>bold</b> needle"}, event="star")
    failed = await stage.sender.deliver({"other": 1}, event="broken")
    quarantined = await stage.sender.deliver(b'{"half": ')
    await assess(100)
    return {
        "assessed": str(matched.signal_id),
        "ignored": str(ignored.signal_id),
        "failed": str(failed.signal_id),
        "quarantined": str(quarantined.signal_id),
    }


async def test_signals_are_searched_and_counted(reader: Reader, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.carol)
    page = await reader.get(f"{HOME}/signals")
    shown = text_of(page)
    assert "All 4" in shown
    assert "Matched a rule 1" in shown
    assert "4 signals in 24 hours" in text_of(await reader.get(f"{HOME}/signals/volume"))
    assert "1 action" in shown
    assert all(id in page.text for id in ids.values())
    for question, answer in {
        "text=needle": "ignored",
        "type=star": "ignored",
        "status=quarantined": "quarantined",
        "text=monalisa&period=1h": "assessed",
        f"source_id={written.sender.source_id}&type=broken": "failed",
    }.items():
        found = await reader.get(f"{HOME}/signals?{question}")
        assert [name for name, id in ids.items() if id in found.text] == [answer], question
    assert "Nothing matches" in text_of(await reader.get(f"{HOME}/signals?text=nowhere"))


async def test_chips_count_what_the_other_filters_leave(reader: Reader, written: RuleStage) -> None:
    await deliver_some(written)
    await reader.sign_in(written.cast.carol)
    page = await reader.get(f"{HOME}/signals?type=star&status=ignored")
    assert "All 1" in text_of(page)
    chips = page.text.split('aria-label="State"')[1].split("</nav>")[0]
    assert f'href="{HOME}/signals?type=star"' in chips, "a chip keeps the other filters"
    assert "No rule matched" in chips
    assert "Quarantined" not in chips, "a state that no signal is in is no choice"
    none = await reader.get(f"{HOME}/signals?type=star&status=quarantined")
    assert "Quarantined 0" in text_of(none), "the one that is chosen stays"


async def test_a_filter_that_cannot_be_is_a_sentence(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.carol)
    for question in ("source_id=17", f"text={'x' * 201}"):
        page = await reader.get(f"{HOME}/signals?{question}")
        assert page.status_code == 400
        assert "not valid" in text_of(page)


async def test_signals_are_paged_without_losing_the_filters(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice)
    made = [str((await sender.deliver({"n": n}, event="star")).signal_id) for n in range(51)]
    await reader.sign_in(cast.carol)
    first = await reader.get(f"{HOME}/signals?type=star")
    assert made[0] not in first.text
    assert made[50] in first.text
    older = unescape(re.search(r'rel="next" href="([^"]+)"', first.text)[1])
    assert "type=star" in older
    second = await reader.get(older)
    assert made[0] in second.text
    assert made[50] not in second.text


async def test_new_signals_are_announced_not_inserted(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice)
    await sender.deliver({"n": 1}, event="star")
    await reader.sign_in(cast.carol)
    page = await reader.get(f"{HOME}/signals?type=star")
    ask = unescape(re.search(r'hx-get="([^"]+/signals/new[^"]*)"', page.text)[1])
    assert (await reader.get(ask)).text.strip() == ""
    await sender.deliver({"n": 2}, event="star")
    await sender.deliver({"n": 2}, event="other")
    assert "1 new" in text_of(await reader.get(ask))
    for after in ("", "x", "2026-01-01T00:00:00", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59.999999Z"):
        assert (await reader.get(f"{HOME}/signals/new?after={after}")).status_code == 400, after


async def test_a_signal_shows_its_proof_and_what_came_of_it(reader: Reader, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.oscar)
    page = await reader.get(f"{HOME}/signals/{ids['assessed']}")
    shown = text_of(page)
    assert "The signature is right" in shown
    assert f"ends in {written.sender.secret[-4:]}" in shown
    assert "Mint 5 PTS to monalisa" in shown
    assert "Replay…" in shown
    assert "payload.sponsorship.tier.monthly_price_in_dollars" in copied(page), "paths are copied as rules name them"
    again = await reader.post(f"{HOME}/signals/{ids['assessed']}/assess")
    assert again.headers["location"].endswith("?done=replayed")
    await assess(100)
    assert "1 action" in text_of(await reader.get(f"{HOME}/signals?status=assessed")), "nothing is proposed twice"


async def test_a_signal_in_trouble_says_why_and_markup_in_it_is_text(reader: Reader, written: RuleStage) -> None:
    ids = await deliver_some(written)
    await reader.sign_in(written.cast.oscar)
    failed = text_of(await reader.get(f"{HOME}/signals/{ids['failed']}"))
    assert "A rule could not be evaluated" in failed
    assert "See the rule Fails" in failed
    quarantined = text_of(await reader.get(f"{HOME}/signals/{ids['quarantined']}"))
    assert "The body is not JSON" in quarantined
    assert "Replay…" not in quarantined
    refused = await reader.post(f"{HOME}/signals/{ids['quarantined']}/assess")
    assert refused.status_code == 409
    assert "cannot be assessed again" in text_of(refused)
    ignored = await reader.get(f"{HOME}/signals/{ids['ignored']}")
    assert "a <b>bold</b> needle" in unescape(ignored.text)
    assert "<b>bold</b>" not in ignored.text


async def test_a_huge_signal_is_a_page_all_the_same(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice)
    body = json.dumps(
        {"rows": [{"n": n, "text": "x" * 40} for n in range(9000)], "deep": json.loads("[" * 60 + "]" * 60)}
    )
    receipt = await sender.deliver(body.encode(), event="big")
    await reader.sign_in(cast.carol)
    page = await reader.get(f"{HOME}/signals/{receipt.signal_id}")
    assert page.status_code == 200
    assert "only its beginning is drawn" in text_of(page)
    assert len(page.text) < 500_000


# Audit


async def test_the_audit_tells_one_story(reader: Reader, written: RuleStage) -> None:
    await deliver_some(written)
    await reader.sign_in(written.cast.carol)
    page = await reader.get(f"{HOME}/audit?kind=action.proposed")
    assert "Action proposed" in text_of(page)
    assert "Source created" not in text_of(page)
    story = await reader.get(unescape(re.search(r'href="([^"]+correlation_id=[^"]+)"', page.text)[1]))
    assert "One story" in text_of(story)
    assert "Action proposed" in text_of(story)
    source = await reader.get(f"{HOME}/audit?subject_kind=source&subject_id={written.sender.source_id}")
    assert "Source created" in text_of(source)
    assert "Nothing matches" in text_of(await reader.get(f"{HOME}/audit?kind=no.such"))


async def test_the_chain_is_checked_and_a_forged_entry_is_found(reader: Reader, written: RuleStage) -> None:
    await reader.sign_in(written.cast.carol)
    assert "The chain holds" in text_of(await reader.post(f"{HOME}/audit/verify"))
    await run_sql("ALTER TABLE audit_entry DISABLE TRIGGER audit_entry_is_append_only")
    await run_sql("UPDATE audit_entry SET actor_label = 'nobody' WHERE sequence = 2")
    await run_sql("ALTER TABLE audit_entry ENABLE TRIGGER audit_entry_is_append_only")
    assert "The chain is broken at entry 2" in text_of(await reader.post(f"{HOME}/audit/verify"))


# Rules


def rule_form(stage: RuleStage, **changed: str) -> dict[str, str]:
    """The quickstart's rule as its form sends it."""
    given = stage.input()
    return {
        "name": given.name,
        "source_id": str(given.source_id),
        "condition": given.condition,
        "subject": given.subject or "",
        "call": f"{given.contract_id} {given.function}",
        "policy_id": str(given.policy_id),
        **{f"arguments/{name}": text for name, text in given.arguments.items()},
        **changed,
    }


async def test_a_rule_is_written_published_changed_and_disabled(reader: Reader, written: RuleStage) -> None:
    await reader.sign_in(written.cast.oscar)
    made = await reader.post(f"{HOME}/rules/new", **rule_form(written))
    path = made.headers["location"].removesuffix("?done=rule_created")
    assert "It proposes nothing until it is published" in text_of(await reader.get(path))
    await reader.post(f"{path}/publish")
    assert "Version 1 is in force" in text_of(await reader.get(path))
    form = rule_form(written, condition='signal.type == "star"')
    assert (await reader.post(f"{path}/edit", **form)).headers["location"] == f"{path}?done=rule_changed"
    changed = text_of(await reader.get(path))
    assert "Version 2 is written and not in force" in changed
    assert "Version 1 is in force" in changed
    await reader.post(f"{path}/publish", number="2")
    await written.sender.deliver(sponsorship())
    await assess(10)
    assert "No rule matched" in text_of(await reader.get(f"{HOME}/signals?status=ignored"))
    assert (await reader.post(f"{path}/publish", number="2")).status_code == 409
    assert (await reader.post(f"{path}/publish", number="two")).status_code == 400
    assert (await reader.post(f"{path}/disable")).headers["location"] == f"{path}?done=rule_disabled"
    assert "Disabled" in text_of(await reader.get(f"{HOME}/rules"))


async def test_a_draft_is_tried_on_a_real_signal_and_nothing_is_saved(reader: Reader, written: RuleStage) -> None:
    receipt = await written.sender.deliver(sponsorship())
    await reader.sign_in(written.cast.oscar)
    begun = await reader.get(f"{HOME}/rules/new?signal_id={receipt.signal_id}")
    assert 'signal.type == "sponsorship"' in unescape(begun.text), "it begins with the type of the signal"
    form = rule_form(written, signal_id=str(receipt.signal_id))
    tried = await reader.post(f"{HOME}/rules/draft", **form)
    assert tried.status_code == 200
    shown = text_of(tried)
    assert "It matches. This would be proposed" in shown
    assert "5 PTS" in shown
    assert "monalisa" in shown
    assert "a new end user" in shown
    other = await reader.post(f"{HOME}/rules/draft", **{**form, "condition": 'payload.action == "cancelled"'})
    assert "It does not match" in text_of(other)
    missing = await reader.post(f"{HOME}/rules/draft", **{**form, "condition": "payload.acton == 1"})
    assert "payload has no field `acton`" in text_of(missing)
    broken = await reader.post(f"{HOME}/rules/draft", **{**form, "condition": "payload ==", "name": ""})
    assert broken.status_code == 200
    assert "It cannot be evaluated" in text_of(broken)
    assert "payload ==</textarea>" in unescape(broken.text), "what was typed is kept"
    assert (await run_sql("SELECT count(*) AS n FROM rule"))[0]["n"] == 0
    assert (await run_sql("SELECT count(*) AS n FROM end_user"))[0]["n"] == 0


async def test_everything_wrong_with_a_rule_is_said_at_its_field(reader: Reader, written: RuleStage) -> None:
    await reader.sign_in(written.cast.oscar)
    form = rule_form(written, condition="payload ==", **{"arguments/amount": "nonsense("})
    wrong = await reader.post(f"{HOME}/rules/new", **form)
    assert wrong.status_code == 400
    assert 'id="error-condition"' in wrong.text
    assert 'id="error-arguments/amount"' in wrong.text
    for field in ("name", "condition", "call", "policy_id", "source_id"):
        empty = await reader.post(f"{HOME}/rules/new", **{**rule_form(written), field: ""})
        assert empty.status_code == 400, field
        assert f'id="error-{field}"' in empty.text
    await reader.post(f"{HOME}/rules/new", **rule_form(written))
    taken = await reader.post(f"{HOME}/rules/new", **rule_form(written))
    assert taken.status_code == 409
    assert "already" in text_of(taken)


async def test_a_rule_of_another_organisation_is_not_there(reader: Reader, written: RuleStage) -> None:
    rule = await written.publish()
    receipt = await written.sender.deliver(sponsorship())
    await reader.sign_in(written.cast.dave)
    path = f"/orgs/other/rules/{rule.id}"
    assert [(await reader.get(each)).status_code for each in (path, f"{path}/edit")] == [404, 404]
    for verb in ("edit", "publish", "disable"):
        assert (await reader.post(f"{path}/{verb}", **rule_form(written))).status_code == 404
    assert (await reader.post("/orgs/other/rules/draft", **rule_form(written), rule_id=str(rule.id))).status_code == 404
    stolen = await reader.post("/orgs/other/rules/draft", **rule_form(written), signal_id=str(receipt.signal_id))
    assert "monalisa" not in stolen.text
    begun = await reader.get(f"/orgs/other/rules/new?signal_id={receipt.signal_id}")
    assert "sponsorship" not in begun.text


# Transactions, contracts, signers


async def test_a_transaction_says_what_it_waits_for_and_what_was_tried(reader: Reader, stage: Stage) -> None:
    stage.node.fund(stage.signer_address)
    action = await stage.propose_mint(policy_id=await stage.policy(0))
    await run_lanes()
    sent = await find_transaction_of_action(stage.cast.organization_id, action.id)
    assert sent
    await reader.sign_in(stage.cast.carol)
    path = f"{HOME}/transactions/{sent.id}"
    page = await reader.get(path)
    assert "Sent; waits for a block." in text_of(page)
    assert "Checked again, and signed" in text_of(page)
    assert sent.hash in copied(page)
    assert 'hx-trigger="live:transaction from:#live' in page.text
    listed = text_of(await reader.get(f"{HOME}/transactions?status=broadcast"))
    assert "Mint 50 PTS to Ada Park" in listed
    assert "None in this state" in text_of(await reader.get(f"{HOME}/transactions?status=finalized"))
    assert "None in this state" in text_of(await reader.get(f"{HOME}/transactions?status=held"))
    stage.node.mine()
    await watch_chains()
    assert "Included in block" in text_of(await reader.get(path))
    await reader.sign_in(stage.cast.dave)
    assert (await reader.get(path.replace("acme", "other"))).status_code == 404


async def test_a_contract_is_deployed_by_an_action(reader: Reader, stage: Stage) -> None:
    await reader.sign_in(stage.cast.alice)
    form = {
        "template": "points",
        "name": "Acme Miles",
        "symbol": "",
        "chain_id": "31337",
        "signer_id": str(stage.signer_id),
        "policy_id": str(stage.policy_id),
    }
    await stage.policy(0)
    begun = await reader.get(f"{HOME}/contracts/deploy")
    assert "Treasury" in begun.text
    assert '<option value="" selected>Choose a policy</option>' in begun.text, "no policy is chosen by accident"
    wrong = await reader.post(f"{HOME}/contracts/deploy", **form)
    assert wrong.status_code == 400
    assert 'id="error-symbol"' in wrong.text
    assert 'value="Acme Miles"' in wrong.text, "what was typed is kept"
    for field, value in {
        "name": "x" * 40,
        "symbol": "TOOLONG",
        "chain_id": "",
        "signer_id": "",
        "policy_id": "x",
    }.items():
        answer = await reader.post(f"{HOME}/contracts/deploy", **{**form, "symbol": "MIL", field: value})
        assert answer.status_code == 400, field
        assert f'id="error-{field}"' in answer.text
    done = await reader.post(f"{HOME}/contracts/deploy", **{**form, "symbol": "MIL"})
    assert done.headers["location"].endswith("?done=deployment_proposed")
    assert "Acme Miles" in text_of(await reader.get(done.headers["location"]))
    listed = await reader.get(f"{HOME}/contracts")
    assert "Being deployed" in text_of(listed)
    assert "live:contract from:#live" in listed.text
    path = re.findall(rf'href="({HOME}/contracts/[^"]+)">Acme Miles', listed.text)[0]
    under_way = await reader.get(path)
    assert f'hx-get="{path}"' in under_way.text, "it renews itself while the deployment is under way"
    for topic in ("contract", "transaction"):
        assert f"live:{topic} from:#live" in under_way.text
    assert f"{HOME}/live?topics=action,contract,transaction,pause,lane&" in unescape(under_way.text)


async def test_a_contract_is_registered_by_its_address(reader: Reader, stage: Stage) -> None:
    points = await get_contract(stage.cast.organization_id, stage.contract_id)
    await reader.sign_in(stage.cast.alice)
    page = text_of(await reader.get(f"{HOME}/contracts/{points.id}"))
    assert "mint(to: address, amount: uint256)" in page
    abi = [{"type": "function", "name": "mint", "stateMutability": "nonpayable", "outputs": []}]
    abi[0]["inputs"] = [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}]
    abi.append({**abi[0], "name": "lock", "inputs": []})
    form = {
        "name": "Second",
        "chain_id": "31337",
        "address": stage.signer_address,
        "abi": json.dumps({"abi": abi}),
        "allowed_functions": "mint(address, uint256)\r\nlock()\r\n",  # lines end as browsers send them
        "signer_id": str(stage.signer_id),
    }
    for field, value in {
        "abi": "[{",
        "address": "0x12",
        "allowed_functions": "burn(uint256)",
        "decimals": "many",
        "name": "",
    }.items():
        answer = await reader.post(f"{HOME}/contracts/new", **{**form, field: value})
        assert answer.status_code == 400, field
        assert f'id="error-{field}"' in answer.text
    nothing = text_of(await reader.post(f"{HOME}/contracts/new", **{**form, "allowed_functions": ""}))
    assert "Name at least one function that actions may call" in nothing
    too_many = text_of(await reader.post(f"{HOME}/contracts/new", **{**form, "decimals": "78"}))
    assert "At most 77, please." in too_many
    empty = await reader.post(f"{HOME}/contracts/new", **form)
    assert "There is no contract at" in text_of(empty), "the signer's address has no code"
    twice = await reader.post(f"{HOME}/contracts/new", **{**form, "address": points.address})
    assert twice.status_code == 409
    await reader.sign_in(stage.cast.dave)
    assert (await reader.get(f"/orgs/other/contracts/{points.id}")).status_code == 404


async def test_a_signer_is_made_and_its_address_appears(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    assert (await reader.post(f"{HOME}/signers", name=" ")).status_code == 400
    assert (await reader.post(f"{HOME}/signers", name="Payouts")).headers["location"].endswith("done=signer_created")
    twice = await reader.post(f"{HOME}/signers", name="Payouts")
    assert twice.status_code == 409
    assert "There is a signer called Payouts already. Choose another name." in text_of(twice)
    waiting = await reader.get(f"{HOME}/signers")
    assert "Being made" in text_of(waiting)
    assert 'hx-trigger="live:signer from:#live' in waiting.text
    await make_pending_keys()
    made = await reader.get(f"{HOME}/signers")
    assert any(re.fullmatch("0x[0-9a-fA-F]{40}", value) for value in copied(made))
    assert "live:signer" not in made.text


# Policies, end users, API keys, health


async def test_a_policy_is_made_and_changed_in_versions(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    form = {"name": "Three people", "approvals_required": "3", "expires_after_seconds": "86400"}
    made = await reader.post(f"{HOME}/policies/new", **form)
    path = made.headers["location"].removesuffix("?done=policy_created")
    shown = text_of(await reader.get(path))
    assert "This can never be met" in shown, "alice and bob alone may approve"
    assert (await reader.post(path, **{**form, "approvals_required": "2"})).status_code == 303
    shown = text_of(await reader.get(path))
    assert "Version 2" in shown
    assert "This can never be met" not in shown
    assert "2 different people" in text_of(await reader.get(f"{HOME}/policies"))
    for field, value in {"approvals_required": "21", "name": "", "expires_after_seconds": "5"}.items():
        wrong = await reader.post(f"{HOME}/policies/new", **{**form, "name": "Other", field: value})
        assert wrong.status_code == 400, field
        assert f'id="error-{field}"' in wrong.text
    assert (await reader.post(f"{HOME}/policies/new", **form)).status_code == 409
    await reader.sign_in(cast.carol)
    assert f'action="{path}"' not in (await reader.get(path)).text, "an auditor reads it"
    await reader.sign_in(cast.dave)
    assert (await reader.get(path.replace("acme", "other"))).status_code == 404


async def test_a_policys_limits_are_typed_in_the_chains_currency(reader: Reader, stage: Stage, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    form = {"name": "Small sums", "approvals_required": "1", "expires_after_seconds": "86400"}
    capped = {**form, "most_cost": "0.01", "most_cost_a_day": "1.5", "execute_within_seconds": "7200"}
    made = await reader.post(f"{HOME}/policies/new", **capped)
    path = made.headers["location"].removesuffix("?done=policy_created")
    shown = await reader.get(path)
    assert 'value="0.01"' in shown.text
    assert 'value="1.5"' in shown.text
    assert "0.01 each, 1.5 a day" in text_of(await reader.get(f"{HOME}/policies"))

    action = await stage.propose_mint(policy_id=UUID(path.rpartition("/")[2]))
    card = text_of(await reader.get(f"{HOME}/actions/{action.id}"))
    assert "At most 0.01 ETH, gas included; all under this policy at most 1.5 ETH in 24 hours on one chain." in card
    assert "Carried out within 2 hours of its approval, or not at all." in card

    for field, value in {"most_cost": "0,01", "most_cost_a_day": "0.001"}.items():
        wrong = await reader.post(f"{HOME}/policies/new", **{**capped, "name": "Other", field: value})
        assert wrong.status_code == 400, field
        assert f'id="error-{field}"' in wrong.text
        assert f'value="{value}"' in wrong.text, "what was typed stays"
    lifted = await reader.post(path, **{**capped, "most_cost": "", "most_cost_a_day": ""})
    assert lifted.status_code == 303
    assert "No limit" in text_of(await reader.get(f"{HOME}/policies"))


async def test_an_end_user_is_found_invited_once_and_shown_with_their_actions(reader: Reader, stage: Stage) -> None:
    await stage.propose_mint()
    await reader.sign_in(stage.cast.oscar)
    assert "Ada Park" in text_of(await reader.get(f"{HOME}/end-users?text=github:ADA"))
    assert "Nobody matches" in text_of(await reader.get(f"{HOME}/end-users?text=zoe"))
    path = f"{HOME}/end-users/{stage.ada_id}"
    assert "Mint 50 PTS to Ada Park" in text_of(await reader.get(path))
    invited = await reader.post(f"{path}/invite")
    link = next(value for value in copied(invited) if "/invitations/" in value)
    again = await reader.get(path)
    assert link not in again.text, "the link is shown only once"
    assert "Invited" in text_of(again)
    assert (await Reader(reader.http).get(link.removeprefix("http://127.0.0.1:8000"))).status_code == 200
    await reader.sign_in(stage.cast.dave)
    assert (await reader.get(path.replace("acme", "other"))).status_code == 404
    assert (await reader.post(path.replace("acme", "other") + "/invite")).status_code == 404


async def test_an_api_key_is_shown_once_works_and_is_revoked(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    offered = await reader.get(f"{HOME}/api-keys")
    assert "End users read write" in text_of(offered)
    assert "Organisation write" in text_of(offered), "spelled as on all pages, whatever the scope is called"
    assert 'value="organization:write"' in offered.text
    made = await reader.post(f"{HOME}/api-keys", name="Billing", scopes="signals:read", ends="30")
    token = next(value for value in copied(made) if value.startswith("sp_"))
    headers = {"Authorization": f"Bearer {token}"}
    assert (await reader.http.get("/api/v1/signals", headers=headers)).status_code == 200
    assert (await reader.http.get("/api/v1/sources", headers=headers)).status_code == 403
    listed = await reader.get(f"{HOME}/api-keys")
    assert token not in listed.text
    assert "actions:approve" not in listed.text, "no key can approve"
    revoke = re.search(r'action="([^"]+/revoke)"', listed.text)[1]
    assert (await reader.post(revoke)).headers["location"].endswith("?done=key_revoked")
    assert (await reader.http.get("/api/v1/signals", headers=headers)).status_code == 401
    assert (await reader.post(revoke)).status_code == 409


async def test_a_key_without_name_or_scope_is_refused_and_keeps_what_was_chosen(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    nothing = await reader.post(f"{HOME}/api-keys", name="Billing", ends="")
    assert nothing.status_code == 400
    assert 'id="error-scopes"' in nothing.text
    assert 'value="Billing"' in nothing.text
    nameless = await reader.post(f"{HOME}/api-keys", name="", scopes="rules:read")
    assert nameless.status_code == 400
    assert 'id="error-name"' in nameless.text
    assert re.search(r'value="rules:read" checked', nameless.text)
    assert (await reader.post(f"{HOME}/api-keys", name="X", scopes="actions:approve")).status_code == 400


async def test_health_names_what_is_not_well_first(reader: Reader, cast: Cast) -> None:
    sender = await make_sender(cast.alice, name="Shop")
    await make_sender(cast.alice, name="Busy")
    await reader.sign_in(cast.alice)
    await reader.post(f"{HOME}/sources/{sender.source_id}/pause")
    shown = text_of(await reader.get(f"{HOME}/health"))
    assert shown.index("Source Shop Is paused") < shown.index("Source Busy")
    assert "The database is at this version." in shown
