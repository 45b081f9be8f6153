"""What an operator does by hand, over the API: pausing, going on, cancelling, speeding up, looking at lanes."""

from typing import Any

import httpx
import pytest

from portal.db.engine import run_sql
from portal.transactions.signers.top_ups import read_signers
from tests.actions import make_signer
from tests.http.api import key_of, paths, problem, session_of
from tests.people import Cast
from tests.transactions import Play

PAUSES, EVERYTHING = "/api/v1/pauses", {"scope": "organization", "reason": "The amounts look wrong."}


async def get(http: httpx.AsyncClient, path: str, own: dict[str, str]) -> dict[str, Any]:
    answer = await http.get(f"/api/v1/{path}", headers=own)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_key_may_stop_and_only_people_go_on(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice, "pauses:write", "pauses:read")
    made = await http.post(PAUSES, json=EVERYTHING, headers=key)
    assert made.status_code == 201, made.text
    begun = made.json()
    assert made.headers["location"] == f"/api/v1/pauses/{begun['id']}"
    assert (begun["subject"], begun["subject_name"]) == (str(cast.organization_id), "everything")
    assert (begun["votes"], begun["votes_given"], begun["votes_required"]) == ([], 0, 1)
    problem(await http.post(PAUSES, json=EVERYTHING, headers=key), 409, "already_paused")
    votes = f"{PAUSES}/{begun['id']}/resumptions"
    problem(await http.post(votes, headers=key), 403, "forbidden")
    problem(await http.post(votes, headers=await session_of(cast.oscar)), 403, "forbidden")
    ended = await http.post(votes, headers=await session_of(cast.bob))
    assert ended.status_code == 201, ended.text
    assert ended.json()["ended_at"]
    assert [vote["email"] for vote in ended.json()["votes"]] == ["bob@example.org"]
    assert (await get(http, "pauses?lasting=true", key))["items"] == []
    assert [each["id"] for each in (await get(http, "pauses", key))["items"]] == [begun["id"]]


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"scope": "planet", "reason": "To look."}, "/scope"),
        ({"scope": "chain", "subject": "many", "reason": "To look."}, "/subject"),
        ({"scope": "organization", "reason": " "}, "/reason"),
        ({"scope": "organization", "reason": "To look.", "until": "now"}, "/until"),
    ],
)
async def test_what_is_wrong_with_a_pause_is_named(
    http: httpx.AsyncClient, cast: Cast, body: dict[str, Any], path: str
) -> None:
    said = problem(await http.post(PAUSES, json=body, headers=await key_of(cast.alice)), 400, "input_invalid")
    assert paths(said) == [path]


async def test_a_transaction_is_sped_up_and_cancelled_once_each(http: httpx.AsyncClient, play: Play) -> None:
    key = await key_of(play.stage.cast.alice, "transactions:write")
    sent = await play.view(await play.sent_mint())
    path = f"/api/v1/transactions/{sent.id}"
    hurried = await http.post(f"{path}/speed-ups", headers=key)
    assert (hurried.status_code, hurried.json()["may_hurry"]) == (202, False)
    assert hurried.json()["hurry_requested_at"]
    problem(await http.post(f"{path}/speed-ups", headers=key), 409, "not_hurriable")
    cancelled = await http.post(f"{path}/cancellations", headers=key)
    assert (cancelled.status_code, cancelled.json()["may_cancel"]) == (202, False)
    problem(await http.post(f"{path}/cancellations", headers=key), 409, "not_cancellable")


async def test_lanes_and_their_nonces_are_read_page_by_page(http: httpx.AsyncClient, play: Play) -> None:
    key = await key_of(play.stage.cast.alice, "transactions:read")
    first, second = await play.sent_mint(), await play.sent_mint()
    [lane] = (await get(http, "lanes", key))["items"]
    assert (lane["in_flight"], lane["stuck_since"]) == (2, None)
    assert lane["head"]["action_id"] == str(first)
    assert await get(http, f"lanes/{lane['id']}", key) == lane
    assert (await get(http, "lanes?chain_id=1", key))["items"] == []
    newest = await get(http, f"lanes/{lane['id']}/nonces?limit=1", key)
    older = await get(http, f"lanes/{lane['id']}/nonces?limit=1&cursor={newest['next_cursor']}", key)
    assert [each["action_id"] for each in newest["items"] + older["items"]] == [str(second), str(first)]
    assert older["next_cursor"] is None
    assert len(older["items"][0]["attempts"]) == 1
    await run_sql("UPDATE lane SET stuck_since = now()")
    assert (await get(http, f"lanes/{lane['id']}", key))["stuck_since"]


async def test_a_signers_top_up_is_set_by_whoever_has_seen_it(http: httpx.AsyncClient, play: Play) -> None:
    stage, key = play.stage, await key_of(play.stage.cast.alice)
    treasury_id, _ = await make_signer(stage.cast, "Second")
    path = f"/api/v1/signers/{stage.signer_id}/top-up"
    seen = await http.get(path, headers=key)
    assert (seen.json()["low_balance_wei"], seen.json()["top_up_wei"]) == (None, None)
    given = {
        "low_balance_wei": str(10**24),
        "top_up_wei": "5",
        "treasury_id": str(treasury_id),
        "policy_id": str(stage.policy_id),
    }
    problem(await http.put(path, json=given, headers=key), 428, "version_missing")
    match = {**key, "If-Match": seen.headers["etag"]}
    said = problem(await http.put(path, json={**given, "policy_id": None}, headers=match), 400, "input_invalid")
    assert paths(said) == ["/policy_id"]
    done = await http.put(path, json=given, headers=match)
    assert (done.status_code, done.json()["treasury_name"], done.json()["policy_name"]) == (200, "Second", "Two people")
    problem(await http.put(path, json=given, headers=match), 412, "precondition_failed")

    await read_signers()
    [runway, treasury] = (await get(http, "runways", key))["items"]
    assert (runway["signer_name"], runway["days_left"], runway["low_balance_wei"]) == ("Treasury", None, str(10**24))
    assert runway["low_since"]
    assert treasury["signer_name"] == "Second", "what it sends from is told, too"
    [action] = (await get(http, "actions", key))["items"]
    assert (action["summary"], action["value_wei"]) == ("Send 0.000000000000000005 ETH to Signer Treasury", "5")
