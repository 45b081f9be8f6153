"""Bad input: every kind gets a refusal that names the place, none gets a stack trace."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from portal.api.problem import pointer_of
from portal.api.requests import BODY_CAP_BYTES
from portal.db.columns import new_id
from tests.http.api import key_of, paths, problem, wired_database
from tests.people import Cast

PATH = "/api/v1/policies"
POLICY = {"name": "Two people", "approvals_required": 2}


async def post(http: httpx.AsyncClient, cast: Cast, body: bytes, **headers: str) -> httpx.Response:
    sent = {"Content-Type": "application/json", **headers, **await key_of(cast.alice)}
    return await http.post(PATH, content=body, headers=sent)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"name": }',
        b"nonsense",
        b'{"name": "a"} trailing',
        b"\xff\xfe{",
        b'{"name": "caf\xe9"}',
        b'{"name": "half a \\ud800 pair"}',
        b"[" * 500_000,
        b'{"a":' * 150_000,
        b'{"approvals_required": NaN}',
        b'{"approvals_required": 1e999}',
        b"\x00",
    ],
)
async def test_what_is_not_json_is_refused(http: httpx.AsyncClient, cast: Cast, body: bytes) -> None:
    assert "JSON" in (said := problem(await post(http, cast, body), 400, "input_invalid"))["detail"] or (
        "UTF-8" in said["detail"]
    )


@pytest.mark.parametrize("body", [b"[]", b"null", b'"text"', b"1", b"true", b""])
async def test_what_is_no_object_is_refused(http: httpx.AsyncClient, cast: Cast, body: bytes) -> None:
    said = problem(await post(http, cast, body), 400, "input_invalid")
    assert paths(said) == [""]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"surprise": 1}, "/surprise"),
        ({"name": None}, "/name"),
        ({"name": 7}, "/name"),
        ({"name": ""}, "/name"),
        ({"name": "x" * 81}, "/name"),
        ({"name": "nul \x00"}, "/name"),
        ({"approvals_required": "2"}, "/approvals_required"),
        ({"approvals_required": True}, "/approvals_required"),
        ({"approvals_required": 2.5}, "/approvals_required"),
        ({"approvals_required": -1}, "/approvals_required"),
        ({"approvals_required": 2**53 + 1}, "/approvals_required"),
        ({"approvals_required": 10**400}, "/approvals_required"),
    ],
)
async def test_a_wrong_field_is_named(http: httpx.AsyncClient, cast: Cast, change: dict[str, Any], path: str) -> None:
    said = problem(await post(http, cast, json.dumps(POLICY | change).encode()), 400, "input_invalid")
    assert set(paths(said)) == {path}
    assert all(error["message"] for error in said["errors"])


async def test_a_place_deep_inside_is_named(http: httpx.AsyncClient, cast: Cast) -> None:
    contract = {
        "name": "Points",
        "chain_id": 31337,
        "address": "0x52908400098527886E0F7030069857D2E4169EE7",
        "abi": [{"type": "function"}, "nonsense"],
        "allowed_functions": ["mint(address,uint256)", 5],
        "signer_id": "not-an-id",
    }
    said = problem(
        await http.post("/api/v1/contracts", json=contract, headers=await key_of(cast.alice)), 400, "input_invalid"
    )
    assert sorted(paths(said)) == ["/abi/1", "/allowed_functions/1", "/signer_id"]


async def test_wei_that_a_number_cannot_carry_is_asked_for_as_text(http: httpx.AsyncClient, cast: Cast) -> None:
    action = {
        "contract_id": str(new_id()),
        "policy_id": str(new_id()),
        "function": "mint(address,uint256)",
        "arguments": {"to": "0x52908400098527886E0F7030069857D2E4169EE7", "amount": 50 * 10**18},
        "value_wei": 10,
    }
    said = problem(
        await http.post("/api/v1/actions", json=action, headers=await key_of(cast.alice)), 400, "input_invalid"
    )
    assert sorted(paths(said)) == ["/arguments/amount", "/value_wei"]
    assert all("decimal string" in error["message"] for error in said["errors"])


async def test_the_largest_exact_number_is_taken(http: httpx.AsyncClient, cast: Cast) -> None:
    said = problem(
        await post(http, cast, json.dumps(POLICY | {"approvals_required": 2**53}).encode()), 400, "input_invalid"
    )
    assert "decimal string" not in said["detail"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
async def test_a_body_of_another_kind_is_refused(http: httpx.AsyncClient, cast: Cast, kind: str) -> None:
    answer = await post(http, cast, json.dumps(POLICY).encode(), **{"Content-Type": kind})
    problem(answer, 415, "media_type_unsupported")


async def test_a_body_over_the_cap_is_refused_however_it_comes(http: httpx.AsyncClient, cast: Cast) -> None:
    problem(await post(http, cast, b" " * (BODY_CAP_BYTES + 1)), 413, "body_too_large")

    async def chunked() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 65536

    key = await key_of(cast.alice)
    problem(await http.post(PATH, content=chunked(), headers=key), 413, "body_too_large")
    keyed = {**key, "Idempotency-Key": "large"}
    problem(await http.post(PATH, content=chunked(), headers=keyed), 413, "body_too_large")


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "/limit"),
        ("limit=201", "/limit"),
        ("limit=many", "/limit"),
        ("limit=99999999999999999999", "/limit"),
        ("cursor=nonsense", "/cursor"),
        ("cursor=%ff%fe", "/cursor"),
        ("status=nonsense", "/status"),
        ("source_id=nonsense", "/source_id"),
        ("since=yesterday", "/since"),
        ("since=2026-05-04T00:00:00Z&until=2026-05-03T00:00:00Z", "/until"),
        ("text=ada&since=2026-05-04T00:00:00Z&until=2026-05-04T00:30:00%2B01:00", "/until"),
    ],
)
async def test_a_wrong_filter_is_named(http: httpx.AsyncClient, cast: Cast, query: str, path: str) -> None:
    answer = await http.get(f"/api/v1/signals?{query}", headers=await key_of(cast.alice))
    assert path in paths(problem(answer, 400, "input_invalid"))


@pytest.mark.parametrize(
    "query", ["text=%00", "type=a%00b", "text=%ff", "external_id='%20or%201=1", "text=" + "x" * 201]
)
async def test_an_odd_filter_finds_nothing_and_breaks_nothing(http: httpx.AsyncClient, cast: Cast, query: str) -> None:
    answer = await http.get(f"/api/v1/signals?{query}", headers=await key_of(cast.alice))
    assert answer.status_code in (200, 400)


async def test_what_is_not_there_says_so(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    for path in (
        f"{PATH}/{new_id()}",
        f"{PATH}/not-an-id",
        f"{PATH}/%00",
        "/api/v1/nowhere",
        "/api/v1",
        "/api/v2",
        "/api/v2/x",
    ):
        answer = await http.get(path, headers=key)
        assert answer.status_code in (404, 400), path
        assert answer.headers["content-type"].startswith("application/problem+json")
    problem(await http.delete(PATH, headers=key), 405, "method_not_allowed")
    problem(await http.request("TRACE", PATH, headers=key), 405, "method_not_allowed")


async def test_a_header_sent_twice_is_refused_where_it_must_be_one(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    sent = [*key.items(), ("Idempotency-Key", "one"), ("Idempotency-Key", "two")]
    problem(await http.post(PATH, json=POLICY, headers=sent), 400, "input_invalid")


async def test_without_its_database_it_says_so_and_when_to_come_back(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    async with wired_database() as wire:
        assert (await http.get(PATH, headers=key)).status_code == 200
        wire.cut()
        for answer in (
            await http.get(PATH, headers=key),
            await http.post(PATH, json=POLICY, headers={**key, "Idempotency-Key": "down"}),
            await http.post("/api/v1/sessions", json={"email": cast.bob.email, "password": "whatever it is"}),
        ):
            problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        await wire.mend()
        assert (await http.post(PATH, json=POLICY, headers={**key, "Idempotency-Key": "down"})).status_code == 201


def test_a_place_becomes_a_json_pointer() -> None:
    assert pointer_of("") == ""
    assert pointer_of("$") == ""
    assert pointer_of("$.steps[0].name") == "/steps/0/name"
    assert pointer_of("$[12][3]") == "/12/3"
