"""How a transaction is shown: in every state a page says in plain words where it stands and what it waits for."""

import json
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from portal import clock
from portal.actions.queries import get_action
from portal.db.engine import run_sql
from portal.transactions import queries
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.tables import TransactionStatus as Status
from portal.web.deeds import deed_of, steps_of
from tests.actions import settings_chain
from tests.http.test_web_pages import Reader, text_of
from tests.http.test_web_rooms import HOME, Visitor
from tests.people import Cast
from tests.transactions import Play, make_play

EVIDENCE = {
    "finalized_number": 1234,
    "finalized_hash": "0x" + "ab" * 32,
    "transaction_count": 9,
    "endpoints": 2,
    "foreign_hash": "0x" + "ef" * 32,
    "foreign_block_number": 1200,
}
INCLUDED = {"block_number": 3, "block_hash": "0x" + "cd" * 32, "gas_used": 21000, "gas_price_wei": 7}
CASES: dict[str, tuple[Status, dict[str, Any], str, str]] = {
    # name: status, other columns, the word of the state, part of the sentence
    "queued": (Status.QUEUED, {"nonce": None}, "Queued", "Waits for a worker to sign it."),
    "held": (Status.QUEUED, {"nonce": None, "reason": "It is too dear today."}, "Queued", "It is too dear today."),
    "nonced": (Status.NONCED, {}, "Being signed", "is signed next"),
    "signed": (Status.SIGNED, {}, "Signed", "it is sent next"),
    "broadcast": (Status.BROADCAST, {}, "Sent", "waits for a block"),
    "closing": (Status.CLOSING, {"closing_reason": "expired"}, "Being called off", "Its time ran out"),
    "suspect": (Status.SUSPECT, {"reason": "No receipt of ours."}, "Nonce used", "No receipt of ours."),
    "mined": (Status.MINED, {"outcome": "ok", **INCLUDED}, "Included", "In block 3"),
    "confirmed": (Status.CONFIRMED, {"outcome": "ok", **INCLUDED}, "Confirmed", "can no longer undo its block"),
    "final": (Status.FINALIZED, {"outcome": "ok", **INCLUDED}, "Final", "Done."),
    "reverted": (
        Status.FINALIZED,
        {"outcome": "reverted", "revert_reason": "Minting is over.", **INCLUDED},
        "Reverted",
        "Minting is over.",
    ),
    "called off": (
        Status.FINALIZED,
        {"outcome": "cancelled", "closing_reason": "cancelled", **INCLUDED},
        "Cancelled",
        "so the action was not carried out",
    ),
    "too late": (
        Status.FINALIZED,
        {"outcome": "ok", "closing_reason": "cancelled", **INCLUDED},
        "Final",
        "The cancellation came too late",
    ),
    "expired with a nonce": (
        Status.CONFIRMED,
        {"outcome": "cancelled", "closing_reason": "expired", **INCLUDED},
        "Expired",
        "Its time ran out",
    ),
    "refused": (Status.REFUSED, {"nonce": None, "reason": "Bob has left."}, "Refused at signing", "Bob has left."),
    "rejected": (Status.REJECTED, {"nonce": None, "reason": "Too big."}, "Refused by the node", "Too big."),
    "expired": (Status.EXPIRED, {"nonce": None, "reason": "Its time ran out."}, "Expired", "Its time ran out."),
    "cancelled": (Status.CANCELLED, {"nonce": None, "reason": "By alice."}, "Cancelled", "By alice."),
    "displaced": (
        Status.DISPLACED,
        {"reason": "Another program used the key.", "evidence": EVIDENCE},
        "Displaced",
        "Another program used the key.",
    ),
}


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


@pytest_asyncio.fixture
async def play(cast: Cast) -> AsyncIterator[Play]:
    async with settings_chain() as node:
        yield await make_play(cast, node)


async def put(transaction_id: UUID, status: Status, columns: dict[str, Any]) -> None:
    values = {"status": status.value, **columns}
    await run_sql(
        f"""UPDATE transaction t SET {", ".join(f"{name} = w.{name}" for name in values)}
            FROM jsonb_populate_record(NULL::transaction, {{}}::jsonb) w WHERE t.id = {{}}""",
        json.dumps(values),
        transaction_id,
    )


async def test_every_state_is_shown_in_words_on_every_page(reader: Reader, play: Play) -> None:
    await reader.sign_in(play.stage.cast.carol)
    action_id = await play.sent_mint()
    view = await play.view(action_id)
    assert {status for status, *_ in CASES.values()} == set(Status)
    blank = dict.fromkeys(("outcome", "reason", "closing_reason", "revert_reason", "evidence", *INCLUDED))
    for name, (status, columns, word, sentence) in CASES.items():
        await put(view.id, status, {**blank, "nonce": view.nonce, **columns})
        for path in (f"transactions/{view.id}", "transactions", f"actions/{action_id}"):
            page = await reader.get(f"{HOME}/{path}")
            assert page.status_code == 200, (name, path)
            shown = text_of(page)
            assert word in shown, (name, path)
            assert sentence in shown or (path == "transactions" and name == "final"), (name, path)


DONE = {"mined", "confirmed", "final", "too late"}
NOT_DONE = {
    "reverted": "It did not work",
    "called off": "It was called off",
    "cancelled": "It was called off",
    "expired with a nonce": "It was not done in time",
    "expired": "It was not done in time",
    "refused": "It was stopped",
    "rejected": "It did not work",
    "displaced": "It did not work",
}


async def test_whom_it_was_for_reads_whether_it_was_done_and_no_hex(play: Play) -> None:
    action_id = await play.sent_mint()
    view = await play.view(action_id)
    action = await get_action(play.organization_id, action_id)
    blank = dict.fromkeys(("outcome", "reason", "closing_reason", "revert_reason", "evidence", *INCLUDED))
    now = clock.now().isoformat()
    for name, (status, columns, *_) in CASES.items():
        moments = {"mined_at": now, "finalized_at": now} if "block_number" in columns else {}
        blank_moments = {"mined_at": None, "finalized_at": None}
        await put(view.id, status, {**blank, **blank_moments, "nonce": view.nonce, **columns, **moments})
        shown = await play.view(action_id)
        last = steps_of(action, shown, None)[-1]
        deed = deed_of(action, shown, None, "Acme")
        if name in NOT_DONE:
            assert last.title == NOT_DONE[name]
            assert "on record" not in last.text
            assert deed.state.word in ("Did not work", "Called off", "Not done in time")
            assert deed.title.endswith(" PTS, not given"), name
        elif name in DONE:
            assert "on record" in last.text, name
            assert deed.title.endswith(" PTS"), name
        else:
            assert (last.title, deed.state.word) == ("It is on its way", "On its way"), name
            assert ("longer than usual" in last.text) == shown.held, name
        assert "0x" not in last.text


async def test_the_proof_of_a_displacement_is_shown(reader: Reader, play: Play) -> None:
    await reader.sign_in(play.stage.cast.carol)
    view = await play.view(await play.sent_mint())
    await put(view.id, Status.DISPLACED, {"reason": "Another program used the key.", "evidence": EVIDENCE})
    page = await reader.get(f"{HOME}/transactions/{view.id}")
    shown = text_of(page)
    assert "1,234" in shown
    assert "2, none with a receipt of ours" in shown
    assert EVIDENCE["foreign_hash"] in page.text
    assert "in block 1,200" in shown
    assert "9, so 1 is used" in shown
    overview = text_of(await reader.get(f"{HOME}/overview"))
    assert "Needs attention" in overview
    assert "Another program used the key." in overview


async def test_an_attempt_that_does_nothing_is_told_from_the_call(reader: Reader, play: Play) -> None:
    await reader.sign_in(play.stage.cast.carol)
    view = await play.view(await play.sent_mint())
    path = f"{HOME}/transactions/{view.id}"
    assert "Does what was approved" in text_of(await reader.get(path))
    await run_sql("UPDATE attempt SET kind = 'noop' WHERE transaction = {}", view.id)
    assert "Does nothing but use up the nonce" in text_of(await reader.get(path))


async def test_what_a_node_said_is_told_where_it_matters_and_can_be_read_where_not(reader: Reader, play: Play) -> None:
    await reader.sign_in(play.stage.cast.carol)
    play.node.rpc("evm_setAutomine", False)
    view = await play.view(await play.sent_mint())
    lane = re.search(r"lanes/[0-9a-f-]{36}", (await reader.get(f"{HOME}/transactions/{view.id}")).text)[0]
    for answer, told in (
        ("transaction already imported", ""),
        ("transaction underpriced", "offers less than the node"),
    ):
        await run_sql("UPDATE attempt SET last_answer = {} WHERE transaction = {}", answer, view.id)
        page = await reader.get(f"{HOME}/transactions/{view.id}")
        lead, _, own_words = page.text.partition("In the node's own words")
        assert answer in own_words
        assert answer not in lead
        on_lane = text_of(await reader.get(f"{HOME}/{lane}"))
        for shown in (text_of(page), on_lane):
            assert told in shown
            assert ("Not taken" in shown) == bool(told)
        assert "the node said" not in on_lane


async def test_states_are_filters_with_counts_and_those_without_any_are_left_out(
    reader: Reader, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    await reader.sign_in(play.stage.cast.carol)
    play.node.rpc("evm_setAutomine", False)
    await play.approved_mints(18)
    await run_lanes()
    shown = text_of(await reader.get(f"{HOME}/transactions"))
    assert "Sent 16" in shown
    assert "Queued 2" in shown
    await run_sql("UPDATE transaction SET status = 'finalized' WHERE nonce < 4")
    monkeypatch.setattr(queries, "MOST_COUNTED", 2)
    shown = text_of(await reader.get(f"{HOME}/transactions"))
    assert "All 17+" in shown
    assert "Final 2+" in shown
    assert "2+" in text_of(await reader.get(f"{HOME}/overview"))
    assert "Displaced" not in shown
    rows = await run_sql("SELECT id FROM transaction WHERE status = 'queued'")
    await run_sql("UPDATE transaction SET reason = 'No funds.' WHERE id = {}", rows[0]["id"])
    assert "Held up 1" in text_of(await reader.get(f"{HOME}/transactions"))
    held = await reader.get(f"{HOME}/transactions?status=held")
    assert held.text.count("data-row") == 1
    assert f'hx-get="{HOME}/transactions/fresh?status=held&amp;shown={rows[0]["id"]}"' in held.text
    asked_for = text_of(await reader.get(f"{HOME}/transactions?status=displaced"))
    assert "Displaced 0" in asked_for
    assert "None in this state" in asked_for
    await put(rows[1]["id"], Status.FINALIZED, {"outcome": "reverted"})
    assert (await reader.get(f"{HOME}/transactions?status=reverted")).text.count("data-row") == 1


async def test_rows_that_are_shown_change_where_they_are_and_more_are_only_counted(reader: Reader, play: Play) -> None:
    await reader.sign_in(play.stage.cast.carol)
    play.node.rpc("evm_setAutomine", False)
    first = await play.view(await play.sent_mint())
    for room, key, id in (("transactions", "transaction", first.id), ("actions", "action", first.action_id)):
        listed = await reader.get(f"{HOME}/{room}")
        [address] = re.findall(rf'hx-get="({HOME}/{room}/fresh[^"]*)"', listed.text)
        again = await reader.get(unescape(address))
        assert f'hx-target="#{key}-{id}"' in again.text
        assert "new-bar" not in again.text, "nothing came since"
        assert (await reader.get(f"{HOME}/{room}/fresh?shown=nonsense")).status_code == 400
    second = await play.view(await play.sent_mint())
    for room, key, shown, more in (
        ("transactions", "transaction", first.id, second.id),
        ("actions", "action", first.action_id, second.action_id),
    ):
        answer = await reader.get(f"{HOME}/{room}/fresh?shown={shown}")
        assert "1 new" in text_of(answer)
        assert f"{key}-{shown}" in answer.text
        assert f"{key}-{more}" not in answer.text
        older = await reader.get(f"{HOME}/{room}/fresh?shown={shown}&older=true")
        assert "new-bar" not in older.text, "more of the newest are no matter of a list of older ones"
    await put(first.id, Status.FINALIZED, {"outcome": "ok"})
    left = await reader.get(f"{HOME}/transactions/fresh?status=broadcast&shown={first.id}")
    assert f"transaction-{first.id}" in left.text, "it stays in view, with the state it has now"
    assert "1 new" in text_of(left)


async def test_the_timeline_tells_of_an_undone_block_and_of_a_foreign_transaction(reader: Reader, play: Play) -> None:
    await reader.sign_in(play.stage.cast.carol)
    view = await play.view(await play.sent_mint())
    await play.watch_until_mined()
    play.node.rpc("anvil_reorg", 1, [])
    play.node.rpc("anvil_impersonateAccount", play.stage.signer_address)
    play.node.rpc("eth_sendTransaction", {"from": play.stage.signer_address, "to": "0x" + "ab" * 20, "value": "0x1"})
    play.node.mine()
    for _ in range(3):
        await watch_chains()
    play.node.rpc("anvil_mine", hex(80), hex(12))
    await watch_chains()
    shown = text_of(await reader.get(f"{HOME}/transactions/{view.id}"))
    told = [
        "Included in block",
        "What was told of it in block",
        "shows no receipt of ours so far",
        "Another program used the key: its transaction is final at nonce 1",
    ]
    places = [shown.index(sentence) for sentence in told]
    assert places == sorted(places)
