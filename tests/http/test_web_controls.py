"""Pauses, lanes and the controls of a transaction, as people use them with forms alone."""

import re
from html import unescape

import httpx
import pytest

from portal.db.engine import run_sql
from portal.transactions.jobs import watch_chains
from portal.transactions.lanes.watchdog import STUCK_AFTER, watch_lanes
from portal.transactions.signers.top_ups import read_signers
from portal.web.pages.runway import days_in_words
from portal.web.render import coins
from tests.actions import make_signer
from tests.http.test_web_pages import Reader, text_of
from tests.http.test_web_rooms import HOME, Visitor
from tests.people import Cast
from tests.transactions import Play

BECAUSE = "The amounts look wrong."


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


def options(page: httpx.Response) -> dict[str, str]:
    """What can be chosen to be paused: words by value."""
    return {
        unescape(value): unescape(words)
        for value, words in re.findall(r'<option value="([^"]*)"[^>]*>([^<]*)<', page.text)
    }


async def test_a_pause_is_on_every_page_until_enough_voted_to_go_on(reader: Reader, play: Play) -> None:
    cast = play.stage.cast
    await reader.sign_in(cast.oscar)
    page = await reader.get(f"{HOME}/pauses")
    assert "Nothing is paused" in text_of(page)
    chosen = options(page)
    assert chosen[f"contract:{play.stage.contract_id}"] == "Contract Acme Points"
    begun = await reader.post(f"{HOME}/pauses", what=f"contract:{play.stage.contract_id}", reason=BECAUSE)
    assert begun.headers["location"] == f"{HOME}/pauses?done=pause_begun"
    shown = await reader.get(f"{HOME}/pauses")
    assert f"contract:{play.stage.contract_id}" not in options(shown)
    assert "People who may approve actions decide" in text_of(shown)
    for room in ("overview", "transactions", "policies"):
        assert "The contract Acme Points is paused by oscar@example.org" in text_of(await reader.get(f"{HOME}/{room}"))

    await reader.sign_in(cast.alice)
    resume = re.findall(rf'action="({HOME}/pauses/[^"]+/resume)"', (await reader.get(f"{HOME}/pauses")).text)[0]
    assert (await reader.post(resume)).headers["location"].endswith("?done=resumption_voted")
    waiting = await reader.get(f"{HOME}/pauses")
    assert "1 of 2 votes" in text_of(waiting)
    assert "You voted to go on. Others have to, as well." in text_of(waiting)
    assert resume not in waiting.text
    await reader.sign_in(cast.bob)
    assert (await reader.post(resume)).headers["location"].endswith("?done=pause_ended")
    over = await reader.get(f"{HOME}/pauses")
    assert "Nothing is paused" in text_of(over)
    assert "Earlier pauses" in text_of(over)
    assert "is paused by" not in text_of(await reader.get(f"{HOME}/overview"))
    late = await reader.post(resume)
    assert late.status_code == 409
    assert "It ended at" in text_of(late)


async def test_what_is_wrong_with_a_pause_is_said_and_the_reason_is_kept(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    again = await reader.post(f"{HOME}/pauses", what="organization:", reason="x")
    assert again.status_code == 400
    assert "Give a reason of 3 to 500 characters." in text_of(again)
    unknown = await reader.post(f"{HOME}/pauses", what="planet:mars", reason=BECAUSE)
    assert unknown.status_code == 400
    assert BECAUSE in unknown.text
    await reader.post(f"{HOME}/pauses", what="organization:", reason=BECAUSE)
    twice = await reader.post(f"{HOME}/pauses", what="organization:", reason=BECAUSE)
    assert (twice.status_code, "It is paused already" in text_of(twice)) == (409, True)


async def test_many_pauses_leave_room_on_every_page(reader: Reader, play: Play) -> None:
    await reader.sign_in(play.stage.cast.alice)
    for value in list(options(await reader.get(f"{HOME}/pauses")))[:4]:
        await reader.post(f"{HOME}/pauses", what=value, reason=BECAUSE)
    assert "2 more are paused. All of them" in text_of(await reader.get(f"{HOME}/policies"))


async def test_a_transaction_is_sped_up_and_cancelled_from_its_page(reader: Reader, play: Play) -> None:
    sent = await play.view(await play.sent_mint())
    path = f"{HOME}/transactions/{sent.id}"
    await reader.sign_in(play.stage.cast.carol)
    assert "/cancel" not in (await reader.get(path)).text
    await reader.sign_in(play.stage.cast.oscar)
    page = await reader.get(path)
    assert f'action="{path}/speed-up"' in page.text
    assert (
        f"with the same nonce, {sent.nonce}, is sent. Whichever of the two the chain includes takes effect"
        in text_of(page)
    )
    assert (await reader.post(f"{path}/speed-up")).headers["location"] == f"{path}?done=speed_up_requested"
    assert f'action="{path}/speed-up"' not in (await reader.get(path)).text
    assert (await reader.post(f"{path}/cancel")).headers["location"] == f"{path}?done=cancellation_requested"
    told = text_of(await reader.get(path))
    assert "It was cancelled" in told
    assert "Higher fees were asked for by oscar@example.org" in told
    assert "Its cancellation was asked for by oscar@example.org" in told
    twice = await reader.post(f"{path}/cancel")
    assert twice.status_code == 409
    assert "It was cancelled already" in text_of(twice)
    assert f'hx-get="{path}"' in twice.text, "it renews itself from its own address"
    play.node.mine()
    await watch_chains()
    late = await reader.post(f"{path}/cancel")
    assert late.status_code == 409
    assert "was included in block" in text_of(late)
    assert "What you can do" not in text_of(late)


async def test_a_lane_shows_each_nonce_with_its_attempts_and_what_it_waits_for(reader: Reader, play: Play) -> None:
    sent = await play.view(await play.sent_mint())
    await reader.sign_in(play.stage.cast.carol)
    listed = await reader.get(f"{HOME}/lanes")
    assert f"Nonce {sent.nonce}: Sent; waits for a block." in text_of(listed)
    path = re.findall(rf'href="({HOME}/lanes/[^"]+)"', listed.text)[0]
    lane = await reader.get(path)
    assert sent.hash
    assert f'data-copy="{sent.hash}"' in lane.text
    for words in ("Treasury on Local chain", "1 of 16", "Mint 0.000000000000000001 PTS to Ada Park", "gwei"):
        assert words in text_of(lane)
    assert f'href="{HOME}/transactions/{sent.id}"' in lane.text
    assert f'href="{path}">Its lane' in (await reader.get(f"{HOME}/transactions/{sent.id}")).text
    assert f'href="{HOME}/transactions/{sent.id}"' in (await reader.get(f"{HOME}/actions/{sent.action_id}")).text


async def test_a_lane_that_does_not_move_is_said_on_every_page(reader: Reader, play: Play) -> None:
    await play.sent_mint()
    await run_sql("UPDATE transaction SET broadcast_at = broadcast_at - {}::interval", 2 * STUCK_AFTER)
    await run_sql("UPDATE transaction SET queued_at = queued_at - {}::interval", 2 * STUCK_AFTER)
    await watch_lanes()
    await reader.sign_in(play.stage.cast.carol)
    assert "1 lane does not move" in text_of(await reader.get(f"{HOME}/policies"))
    listed = await reader.get(f"{HOME}/lanes")
    assert "Does not move" in text_of(listed)
    path = re.findall(rf'href="({HOME}/lanes/[^"]+)"', listed.text)[0]
    assert "It does not move; it last moved" in text_of(await reader.get(path))


async def test_a_signer_that_is_low_is_said_and_its_top_up_is_set_by_a_form(reader: Reader, play: Play) -> None:
    stage = play.stage
    treasury_id, _ = await make_signer(stage.cast, "Second")
    play.node.fund(stage.signer_address, 10**17)
    await read_signers()
    path = f"{HOME}/signers/{stage.signer_id}/runway"
    await reader.sign_in(stage.cast.carol)
    looked = await reader.get(path)
    assert "0.1 ETH" in text_of(looked)
    assert "It sent nothing in the last seven days." in text_of(looked)
    assert '<form method="post" action="' + path not in looked.text

    await reader.sign_in(stage.cast.alice)
    half = await reader.post(path, low_balance_wei="0.2", top_up_wei="0.5", treasury_id=str(treasury_id), policy_id="")
    assert half.status_code == 400
    assert "A top-up needs an amount, a signer that sends it, and a policy." in text_of(half)
    assert 'value="0.5"' in half.text
    wrong = await reader.post(path, low_balance_wei="much")
    assert "Give an amount in digits" in text_of(wrong)
    whole = {"low_balance_wei": "0.2", "top_up_wei": "0.5", "treasury_id": str(treasury_id)}
    saved = await reader.post(path, **whole, policy_id=str(stage.policy_id))
    assert saved.headers["location"] == f"{path}?done=runway_set"
    assert 'value="0.2"' in (await reader.get(path)).text
    await read_signers()
    assert "Low" in text_of(await reader.get(path))
    overview = text_of(await reader.get(f"{HOME}/overview"))
    assert "Treasury has 0.1 ETH left on Local chain" in overview
    assert "Gas runway" in overview
    listed = await reader.get(f"{HOME}/actions")
    proposed = re.findall(rf'href="({HOME}/actions/[^"]+)">Send 0.5 ETH to Signer Treasury', listed.text)[0]
    assert "The portal itself proposed it" in text_of(await reader.get(proposed))


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (0.4, "Less than a day"),
        (1.2, "About 1 day"),
        (12.4, "About 12 days"),
        (95, "About 3 months"),
        (9000, "More than 2 years"),
    ],
)
def test_a_forecast_is_said_no_more_exactly_than_it_is_known(days: float, words: str) -> None:
    assert days_in_words(days) == words


@pytest.mark.parametrize(
    ("wei", "words"),
    [
        (0, "0 ETH"),
        (1, "0.000000000000000001 ETH"),
        (15 * 10**16, "0.15 ETH"),
        (999997556829709744130, "999.997 ETH"),
        (1999999999999999999, "1.99999 ETH"),
        (1234567 * 10**18, "1,234,560 ETH"),
    ],
)
def test_a_balance_is_said_by_the_digits_that_matter_and_never_as_more(wei: int, words: str) -> None:
    assert coins(wei, "ETH") == words
