"""Signers over the API: what a program may see and change of who signs."""

from collections.abc import AsyncIterator

import httpx
import pytest_asyncio

from portal.chain.signers import make_pending_keys
from portal.db.engine import run_sql
from tests.actions import Stage, make_stage, settings_chain
from tests.http.api import key_of
from tests.people import Cast

API = "/api/v1"


@pytest_asyncio.fixture
async def stage(cast: Cast) -> AsyncIterator[Stage]:
    async with settings_chain() as node:
        yield await make_stage(cast, node)


async def test_a_signer_is_disabled_only_by_who_has_seen_it_as_it_is(http: httpx.AsyncClient, stage: Stage) -> None:
    key, path = await key_of(stage.cast.alice), f"{API}/signers/{stage.signer_id}"
    seen = await http.get(path, headers=key)
    tag = {"if-match": seen.headers["etag"]}
    off, on = {"status": "disabled"}, {"status": "active"}
    assert (await http.put(f"{path}/status", json=off, headers=key)).status_code == 428
    assert (await http.put(f"{path}/status", json=off, headers=key | {"if-match": '"old"'})).status_code == 412
    done = await http.put(f"{path}/status", json=off, headers=key | tag)
    assert (done.status_code, done.json()["status"]) == (200, "disabled")
    assert (await http.put(f"{path}/status", json=on, headers=key | tag)).status_code == 412
    again = await http.put(f"{path}/status", json=on, headers=key | {"if-match": done.headers["etag"]})
    assert again.json()["status"] == "active"


async def test_a_remote_key_is_named_only_to_who_administers(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    made = await http.post(
        f"{API}/signers", json={"name": "Vault", "kind": "aws_kms", "kms_key": "alias/vault"}, headers=key
    )
    assert made.status_code == 201
    view = made.json()
    assert (view["kind"], view["status"], view["key_reference"]) == ("aws_kms", "pending", "alias/vault")
    reader = await key_of(stage.cast.alice, "signers:read", "audit:read", "events:read")
    for answer in (
        await http.get(f"{API}/signers/{view['id']}", headers=reader),
        await http.get(f"{API}/signers", headers=reader),
        await http.get(f"{API}/audit-entries", headers=reader),
        await http.get(f"{API}/events", headers=reader),
    ):
        assert answer.status_code == 200
        assert "alias/vault" not in answer.text
    await make_pending_keys()
    told = (await http.get(f"{API}/signers/{view['id']}", headers=key)).json()
    assert "PORTAL_KMS_KEYS does not allow this key" in told["trouble"]
    seen = await http.get(f"{API}/signers/{view['id']}", headers=key)
    gone = await http.delete(f"{API}/signers/{view['id']}", headers=key | {"if-match": seen.headers["etag"]})
    assert gone.status_code == 204
    kept = await http.get(f"{API}/signers/{stage.signer_id}", headers=key)
    answer = await http.delete(f"{API}/signers/{stage.signer_id}", headers=key | {"if-match": kept.headers["etag"]})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


async def test_what_is_wrong_with_a_remote_key_is_said_at_its_field(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    for given, path in (
        ({"kind": "aws_kms"}, "/kms_key"),
        ({"kind": "web3signer", "service_url": "https://x", "public_key": "0x00"}, "/public_key"),
        ({"kind": "paper"}, "/kind"),
    ):
        answer = await http.post(f"{API}/signers", json={"name": "Remote", **given}, headers=key)
        assert (answer.status_code, [each["path"] for each in answer.json()["errors"]]) == (400, [path])


async def test_a_group_is_made_given_to_a_contract_and_dissolved(http: httpx.AsyncClient, stage: Stage) -> None:
    key = await key_of(stage.cast.alice)
    second = (await http.post(f"{API}/signers", json={"name": "Second"}, headers=key)).json()["id"]
    await make_pending_keys()
    made = await http.post(f"{API}/signer-groups", json={"name": "Minters"}, headers=key)
    path = made.headers["location"]
    assert (await http.post(f"{API}/signer-groups", json={"name": "Minters"}, headers=key)).status_code == 409
    changed = await http.put(
        path,
        json={"name": "Minters", "signer_ids": [second]},
        headers=key | {"if-match": made.headers["etag"]},
    )
    assert [each["name"] for each in changed.json()["signers"]] == ["Second"]
    contract = await http.get(f"{API}/contracts/{stage.contract_id}", headers=key)
    given = await http.put(
        f"{API}/contracts/{stage.contract_id}/senders",
        json={"signer_id": str(stage.signer_id), "signer_group_id": made.json()["id"]},
        headers=key | {"if-match": contract.headers["etag"]},
    )
    assert (given.status_code, given.json()["signer_group_id"]) == (200, made.json()["id"])
    listed = (await http.get(f"{API}/signer-groups", headers=key)).json()["items"]
    assert [each["contract_ids"] for each in listed] == [[str(stage.contract_id)]]
    tag = {"if-match": (await http.get(path, headers=key)).headers["etag"]}
    assert (await http.delete(path, headers=key | tag)).status_code == 409
    await run_sql("UPDATE contract SET signer_group = NULL")
    tag = {"if-match": (await http.get(path, headers=key)).headers["etag"]}
    assert (await http.delete(path, headers=key | tag)).status_code == 204
    assert (await http.get(path, headers=key)).status_code == 404
