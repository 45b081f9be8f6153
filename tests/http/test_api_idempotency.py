"""Idempotency-Key over HTTP: carried out once, answered alike, also with a secret in the answer."""

import asyncio

import httpx

from portal.db.engine import run_sql
from tests.http.api import key_of, problem, session_of
from tests.people import Cast

PATH = "/api/v1/sources"


def source(name: str) -> dict[str, str]:
    return {"name": name, "scheme": "github"}


async def test_the_same_request_again_gets_the_same_answer(http: httpx.AsyncClient, cast: Cast) -> None:
    keyed = {**await key_of(cast.alice), "Idempotency-Key": "k1"}
    first = await http.post(PATH, json=source("Once"), headers=keyed)
    again = await http.post(PATH, json=source("Once"), headers=keyed)
    assert first.status_code == again.status_code == 201
    assert again.json() == first.json()
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["idempotency-replayed"] == "true"
    assert len((await http.get(PATH, headers=keyed)).json()["items"]) == 1


async def test_of_many_at_once_one_is_carried_out(http: httpx.AsyncClient, cast: Cast) -> None:
    keyed = {**await key_of(cast.alice), "Idempotency-Key": "k1"}
    answers = await asyncio.gather(*(http.post(PATH, json=source("Once"), headers=keyed) for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.text for answer in answers if answer.status_code == 201}) == 1
    assert len((await http.get(PATH, headers=keyed)).json()["items"]) == 1


async def test_a_key_is_for_one_request(http: httpx.AsyncClient, cast: Cast) -> None:
    keyed = {**await key_of(cast.alice), "Idempotency-Key": "k1"}
    assert (await http.post(PATH, json=source("One"), headers=keyed)).status_code == 201
    problem(await http.post(PATH, json=source("Another"), headers=keyed), 422, "idempotency_key_reused")
    elsewhere = await http.post("/api/v1/policies", json=source("One"), headers=keyed)
    problem(elsewhere, 422, "idempotency_key_reused")


async def test_a_key_is_of_one_caller(http: httpx.AsyncClient, cast: Cast) -> None:
    mine = {**await key_of(cast.alice), "Idempotency-Key": "k1"}
    theirs = {**await key_of(cast.dave), "Idempotency-Key": "k1"}
    first = await http.post(PATH, json=source("Same"), headers=mine)
    second = await http.post(PATH, json=source("Same"), headers=theirs)
    assert first.status_code == second.status_code == 201
    assert first.json()["id"] != second.json()["id"]


async def test_what_was_refused_before_it_began_may_be_mended(http: httpx.AsyncClient, cast: Cast) -> None:
    keyed = {**await key_of(cast.alice), "Idempotency-Key": "k1"}
    problem(await http.post(PATH, json={"name": "No scheme"}, headers=keyed), 400, "input_invalid")
    assert (await http.post(PATH, json=source("Mended"), headers=keyed)).status_code == 201


async def test_a_refusal_by_the_state_of_things_stays(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    taken = await http.post(PATH, json=source("Taken"), headers=key)
    keyed = {**key, "Idempotency-Key": "k1"}
    first = problem(await http.post(PATH, json=source("Taken"), headers=keyed), 409, "source_name_taken")
    await run_sql("UPDATE source SET name = 'Free again' WHERE name = 'Taken'")
    again = await http.post(PATH, json=source("Taken"), headers=keyed)
    assert again.status_code == 409
    assert again.json() == first
    assert taken.status_code == 201


async def test_a_kept_answer_gives_its_secret_to_nobody_else(http: httpx.AsyncClient, cast: Cast) -> None:
    keyed = {**await key_of(cast.alice), "Idempotency-Key": "k1"}
    secret = (await http.post(PATH, json=source("Secret"), headers=keyed)).json()["secret"]
    rows = await run_sql("SELECT body FROM idempotency_key")
    assert rows
    assert secret.encode() not in bytes(rows[0]["body"])
    revoked = await http.post(PATH, json=source("Secret"), headers={"Idempotency-Key": "k1"})
    problem(revoked, 401, "not_signed_in")


async def test_whoever_lost_the_permission_gets_no_kept_answer(http: httpx.AsyncClient, cast: Cast) -> None:
    keyed = {**await session_of(cast.alice), "Idempotency-Key": "k1"}
    assert (await http.post(PATH, json=source("Secret"), headers=keyed)).status_code == 201
    await run_sql("UPDATE member SET role = 'auditor' WHERE id = {}", cast.alice.actor.id)
    problem(await http.post(PATH, json=source("Secret"), headers=keyed), 403, "forbidden")


async def test_an_odd_key_is_refused(http: httpx.AsyncClient, cast: Cast) -> None:
    key = await key_of(cast.alice)
    for odd in (b"", b"x" * 256, b"tab\there"):
        answer = await http.post(PATH, json=source("Odd"), headers={**key, "Idempotency-Key": odd})
        problem(answer, 400, "input_invalid")
