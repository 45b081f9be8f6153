"""From a rule to decisions over the API, on a real chain: shapes, who may decide, and what binds them."""

from datetime import timedelta
from typing import Any

import httpx

from portal import clock
from portal.accounts.permissions import Role
from portal.db.engine import run_sql
from portal.rules.service import assess
from portal.transactions.service import queue_approved
from tests.actions import ADA, CHAIN, MINT, Stage
from tests.http.api import deliver, key_of, make_source, paths, problem, session_of
from tests.people import Player, make_member


def mint(stage: Stage, **changed: Any) -> dict[str, Any]:
    return {
        "contract_id": str(stage.contract_id),
        "policy_id": str(stage.policy_id),
        "function": MINT,
        "arguments": {"to": ADA, "amount": str(50 * 10**18)},
        **changed,
    }


async def decide(
    http: httpx.AsyncClient, player: Player, own: dict[str, str], action: dict[str, Any], **changed: str
) -> httpx.Response:
    """Approve with the code of the next time step; the current one was spent on signing in."""
    body = {"digest": action["digest"], "code": player.code(1), **changed}
    return await http.post(f"/api/v1/actions/{action['id']}/approvals", json=body, headers=own)


async def test_an_action_has_the_shape_that_was_promised(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    made = await http.post("/api/v1/actions", json=mint(stage), headers=key)
    assert made.status_code == 201
    action = made.json()
    assert made.headers["location"] == f"/api/v1/actions/{action['id']}"
    assert action["status"] == "proposed"
    assert len(action["digest"]) == 64
    assert action["arguments"] == [
        {"name": "to", "type": "address", "value": ADA},
        {"name": "amount", "type": "uint256", "value": "50000000000000000000"},
    ]
    assert (action["value_wei"], action["approvals"], action["approvals_required"]) == ("0", [], 2)
    assert action["transaction"] is None
    simulated = await http.post(f"/api/v1/actions/{action['id']}/simulations", headers=key)
    assert simulated.json()["simulation"]["ok"] is True
    listed = (await http.get("/api/v1/actions", params={"status": "proposed"}, headers=key)).json()["items"]
    assert listed == [simulated.json()]


async def test_whoever_may_propose_or_approve_simulates_again(http: httpx.AsyncClient, stage: Stage) -> None:
    cast = stage.cast
    made = await http.post("/api/v1/actions", json=mint(stage), headers=await session_of(cast.oscar))
    path = f"/api/v1/actions/{made.json()['id']}/simulations"
    assert (await http.post(path, headers=await session_of(cast.bob))).status_code == 201
    problem(await http.post(path, headers=await session_of(cast.carol)), 403, "forbidden")


async def test_two_people_approve_and_it_is_queued_once(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    action = (await http.post("/api/v1/actions", json=mint(stage), headers=key)).json()
    alice, bob = await session_of(stage.cast.alice), await session_of(stage.cast.bob)
    assert (action["proposed_by_key"], action["key_created_by"]) == ("test", "alice@example.org")
    problem(await decide(http, stage.cast.alice, alice, action), 403, "proposer_may_not_approve")
    third = await make_member(stage.cast.organization_id, "erin", Role.APPROVER)
    erin = await session_of(third)
    once = await decide(http, third, erin, action)
    assert once.status_code == 201
    assert (once.json()["status"], once.json()["approvals_given"]) == ("proposed", 1)
    problem(await decide(http, third, erin, action), 409, "already_decided")
    twice = await decide(http, stage.cast.bob, bob, action)
    assert twice.json()["status"] == "approved"
    await queue_approved()
    shown = (await http.get(f"/api/v1/actions/{action['id']}", headers=key)).json()
    assert shown["transaction"]["status"] == "queued"
    assert shown["transaction"]["action_id"] == action["id"]
    transactions = (await http.get("/api/v1/transactions", headers=key)).json()["items"]
    assert transactions == [shown["transaction"]]
    same = await http.get(f"/api/v1/transactions/{transactions[0]['id']}", headers=key)
    assert same.json() == transactions[0]
    kinds = {entry["kind"] for entry in (await http.get("/api/v1/audit-entries", headers=key)).json()["items"]}
    assert {"action.approval_given", "action.approved"} <= kinds


async def test_what_would_do_something_else_by_now_is_shown_before_it_is_approved(
    http: httpx.AsyncClient, stage: Stage
) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    bob = await session_of(cast.bob)
    shown = (await http.get(f"/api/v1/actions/{action.id}", headers=bob)).json()
    await run_sql("UPDATE chain SET head_number = 1000000 WHERE id = {}", CHAIN)
    await run_sql("UPDATE action SET simulated_at = {} WHERE id = {}", clock.now() - timedelta(minutes=6), action.id)
    stage.node.rpc("anvil_setCode", shown["to_address"], "0x00")
    problem(await decide(http, cast.bob, bob, shown), 409, "outcome_changed")
    after = (await http.get(f"/api/v1/actions/{action.id}", headers=bob)).json()
    assert (after["approvals_given"], after["simulation"]["effects"]["changes"]) == (0, [])
    assert len(shown["simulation"]["effects"]["changes"]) == 1
    assert (await decide(http, cast.bob, bob, shown)).json()["approvals_given"] == 1, "with the same code"


async def test_a_client_says_which_outcome_its_person_saw(http: httpx.AsyncClient, stage: Stage) -> None:
    cast, action = stage.cast, await stage.propose_mint()
    bob, path = await session_of(cast.bob), f"/api/v1/actions/{action.id}"
    seen = (await http.get(path, headers=bob)).json()
    assert len(seen["simulation"]["outcome_digest"]) == 64
    stage.node.rpc("anvil_setCode", seen["to_address"], "0x00")
    now = (await http.post(f"{path}/simulations", headers=await session_of(cast.oscar))).json()
    named = {"outcome_digest": seen["simulation"]["outcome_digest"]}
    problem(await decide(http, cast.bob, bob, seen, **named), 409, "outcome_changed")
    assert (await http.get(path, headers=bob)).json()["approvals"] == []
    again = (await http.post(f"{path}/simulations", headers=await session_of(cast.alice))).json()
    assert again["simulation"]["simulated_at"] > now["simulation"]["simulated_at"]
    named = {"outcome_digest": now["simulation"]["outcome_digest"]}
    assert (await decide(http, cast.bob, bob, seen, **named)).json()["approvals_given"] == 1


async def test_only_a_person_with_a_fresh_code_and_the_right_digest_approves(
    http: httpx.AsyncClient, stage: Stage
) -> None:
    key = await key_of(stage.cast.alice)
    action = (await http.post("/api/v1/actions", json=mint(stage), headers=key)).json()
    bob = await session_of(stage.cast.bob)
    problem(await decide(http, stage.cast.bob, key, action), 403, "forbidden")
    problem(await decide(http, stage.cast.bob, bob, action, digest="0" * 64), 409, "digest_changed")
    problem(await decide(http, stage.cast.bob, bob, action, digest="é"), 409, "digest_changed")
    problem(await decide(http, stage.cast.bob, bob, action, code="000000"), 403, "second_factor_invalid")
    used = stage.cast.bob.code()
    problem(await decide(http, stage.cast.bob, bob, action, code=used), 403, "second_factor_invalid")
    assert (await http.get(f"/api/v1/actions/{action['id']}", headers=key)).json()["approvals"] == []


async def test_a_rejection_ends_it(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    action = (await http.post("/api/v1/actions", json=mint(stage), headers=key)).json()
    bob, path = await session_of(stage.cast.bob), f"/api/v1/actions/{action['id']}"
    said = problem(await http.post(f"{path}/rejections", json={"reason": ""}, headers=bob), 400, "input_invalid")
    assert paths(said) == ["/reason"]
    rejected = await http.post(f"{path}/rejections", json={"reason": "Wrong amount"}, headers=bob)
    assert rejected.json()["status"] == "rejected"
    problem(await decide(http, stage.cast.bob, bob, action), 409, "action_not_proposed")
    problem(
        await http.post(f"{path}/cancellations", json={"reason": "Too late"}, headers=key), 409, "action_not_proposed"
    )


async def test_what_cannot_be_called_cannot_be_proposed(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    for changed in (
        {"function": "transfer_ownership(address)"},
        {"arguments": {"to": "nonsense", "amount": "1"}},
        {"arguments": {"to": ADA}},
        {"arguments": {"to": ADA, "amount": "1", "more": 1}},
        {"value_wei": "-1"},
        {"value_wei": "1e18"},
    ):
        answer = await http.post("/api/v1/actions", json=mint(stage, **changed), headers=key)
        assert answer.status_code in (400, 409), answer.text
    foreign = await key_of(stage.cast.dave)
    assert (await http.post("/api/v1/actions", json=mint(stage), headers=foreign)).status_code == 404


async def test_a_published_rule_turns_a_delivery_into_an_action(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    source = await make_source(http, key)
    wanted = {
        "name": "Points for sponsors",
        "source_id": source["id"],
        "condition": "payload.action == 'created'",
        "contract_id": str(stage.contract_id),
        "function": MINT,
        "arguments": {"to": f"'{ADA}'", "amount": "'50000000000000000000'"},
        "policy_id": str(stage.policy_id),
    }
    wrong = await http.post("/api/v1/rules", json={**wanted, "condition": "payload.("}, headers=key)
    assert "/condition" in paths(problem(wrong, 400, "input_invalid"))
    made = await http.post("/api/v1/rules", json=wanted, headers=key)
    assert made.status_code == 201
    rule = made.json()
    assert rule["status"] == "draft"
    published = await http.post(f"/api/v1/rules/{rule['id']}/publications", headers=key)
    assert (published.json()["status"], published.json()["published_number"]) == ("published", 1)

    receipt = (await deliver(http, source, {"action": "created"})).json()
    await assess()
    signal = (await http.get(f"/api/v1/signals/{receipt['signal_id']}", headers=key)).json()
    assert signal["status"] == "assessed"
    action = (await http.get(f"/api/v1/actions/{signal['action_ids'][0]}", headers=key)).json()
    assert (action["rule_id"], action["signal_id"]) == (rule["id"], signal["id"])
    assert action["correlation_id"] == signal["correlation_id"]

    again = await http.post(f"/api/v1/signals/{signal['id']}/reassessments", headers=key)
    assert again.json()["status"] == "received"
    await assess()
    same = (await http.get(f"/api/v1/signals/{signal['id']}", headers=key)).json()
    assert same["action_ids"] == signal["action_ids"]


async def test_a_rule_changes_in_versions_and_is_disabled(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    source = await make_source(http, key)
    change = {
        "name": "Rule",
        "condition": "true",
        "contract_id": str(stage.contract_id),
        "function": MINT,
        "arguments": {"to": f"'{ADA}'", "amount": "'1'"},
        "policy_id": str(stage.policy_id),
    }
    made = await http.post("/api/v1/rules", json={**change, "source_id": source["id"]}, headers=key)
    path, etag = made.headers["location"], made.headers["etag"]
    await http.post(f"{path}/publications", json={"number": 1}, headers=key)
    problem(await http.put(path, json=change, headers={**key, "If-Match": etag}), 412, "precondition_failed")
    etag = (await http.get(path, headers=key)).headers["etag"]
    changed = await http.put(path, json={**change, "condition": "false"}, headers={**key, "If-Match": etag})
    assert (changed.json()["latest"]["number"], changed.json()["published_number"]) == (2, 1)
    versions = (await http.get(f"{path}/versions", headers=key)).json()["items"]
    assert [version["number"] for version in versions] == [2, 1]
    ended = await http.delete(path, headers={**key, "If-Match": changed.headers["etag"]})
    assert ended.status_code == 204
    assert (await http.get(path, headers=key)).json()["status"] == "disabled"


async def test_contracts_signers_and_chains_are_shown_and_made(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    chains = (await http.get("/api/v1/chains", headers=key)).json()["items"]
    assert [chain["id"] for chain in chains] == [31337]
    contract = (await http.get(f"/api/v1/contracts/{stage.contract_id}", headers=key)).json()
    assert [f["signature"] for f in contract["functions"] if f["allowed"]] == [MINT]
    signer = await http.post("/api/v1/signers", json={"name": "Second"}, headers=key)
    assert (signer.status_code, signer.json()["status"], signer.json()["address"]) == (201, "pending", None)
    deployment = {
        "name": "Records",
        "template": "records",
        "chain_id": 31337,
        "signer_id": str(stage.signer_id),
        "policy_id": str(stage.policy_id),
        "arguments": {"name": "Records"},
    }
    proposed = await http.post("/api/v1/deployments", json=deployment, headers=key)
    assert proposed.status_code == 201, proposed.text
    assert (proposed.json()["to_address"], proposed.json()["status"]) == (None, "proposed")
    listed = (await http.get("/api/v1/contracts", headers=key)).json()["items"]
    assert {item["name"]: item["status"] for item in listed} == {"Records": "deploying", "Acme Points": "active"}


async def test_another_organisation_sees_none_of_it(http: httpx.AsyncClient, stage: Stage) -> None:
    key, foreign = await key_of(stage.cast.alice), await key_of(stage.cast.dave)
    action = (await http.post("/api/v1/actions", json=mint(stage), headers=key)).json()
    dave = await session_of(stage.cast.dave)
    for path in (
        f"actions/{action['id']}",
        f"contracts/{stage.contract_id}",
        f"signers/{stage.signer_id}",
        f"policies/{stage.policy_id}",
        f"end-users/{stage.ada_id}",
        f"members/{stage.cast.alice.actor.id}",
    ):
        problem(await http.get(f"/api/v1/{path}", headers=foreign), 404, "not_found")
        assert (await http.get(f"/api/v1/{path}", headers=key)).status_code == 200
    problem(await decide(http, stage.cast.dave, dave, action), 404, "not_found")
    for listed in ("actions", "contracts", "signers", "policies", "end-users", "transactions", "signals", "rules"):
        assert (await http.get(f"/api/v1/{listed}", headers=foreign)).json()["items"] == []


async def test_an_end_user_is_found_and_invited_once(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    found = (await http.get("/api/v1/end-users", params={"text": "ada"}, headers=key)).json()["items"]
    assert [(item["name"], item["login"]) for item in found] == [("Ada Park", "none")]
    invited = await http.post(f"/api/v1/end-users/{stage.ada_id}/invitations", headers=key)
    assert invited.status_code == 201
    assert "/invitations/" in invited.json()["url"]
    assert (await http.get(f"/api/v1/end-users/{stage.ada_id}", headers=key)).json()["login"] == "invited"
