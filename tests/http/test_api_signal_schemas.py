"""Schemas of signals and the health of sources over the API."""

import json
from datetime import timedelta
from typing import Any

import httpx

from portal import clock
from tests.http.api import key_of, make_source, paths, problem
from tests.people import Cast
from tests.stored import store

BOUND = 2**256 - 1
SCHEMA = {"type": "object", "properties": {"wei": {"type": "integer", "maximum": BOUND}}, "required": ["wei"]}
TYPE = {"type": "order/created"}


class Client:
    """Somebody with a key, and a source of theirs."""

    def __init__(self, http: httpx.AsyncClient, key: dict[str, str], source: dict[str, Any]) -> None:
        self.http, self.key, self.path = http, key, f"/api/v1/sources/{source['id']}"
        self.source_id = source["id"]

    async def etag(self) -> str:
        return (await self.http.get(self.path, headers=self.key)).headers["etag"]

    async def send(self, method: str, what: str, body: Any = None, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"content-type": "application/json", **self.key, **headers}
        return await self.http.request(method, f"{self.path}/{what}", content=content, params=TYPE, headers=sent)


async def client_of(http: httpx.AsyncClient, cast: Cast) -> Client:
    key = await key_of(cast.alice)
    return Client(http, key, await make_source(http, key))


async def test_a_schema_is_set_read_and_ended(http: httpx.AsyncClient, cast: Cast) -> None:
    client = await client_of(http, cast)
    problem(await client.send("GET", "schema"), 404, "not_found")
    made = await client.send("PUT", "schema", SCHEMA, **{"if-match": await client.etag()})
    assert (made.status_code, made.json()["number"], made.json()["in_force"]) == (200, 1, True)
    assert made.headers["etag"] == await client.etag()
    assert made.json()["schema"] == SCHEMA, "every digit of a bound is kept"
    read = await client.send("GET", "schema")
    assert (read.json(), read.headers["etag"]) == (made.json(), made.headers["etag"])
    assert (await client.send("GET", "schemas")).json() == {"items": [made.json()], "next_cursor": None}
    changed = await client.send("PUT", "schema", {}, **{"if-match": made.headers["etag"]})
    assert changed.json()["number"] == 2
    assert (await client.send("DELETE", "schema", **{"if-match": changed.headers["etag"]})).status_code == 204
    assert (await client.send("GET", "schemas")).json()["items"] == []
    versions = (await client.send("GET", "schema-versions")).json()["items"]
    assert [(version["number"], version["schema"]) for version in versions] == [(3, None), (2, {}), (1, SCHEMA)]


async def test_nobody_overwrites_what_they_have_not_seen(http: httpx.AsyncClient, cast: Cast) -> None:
    client = await client_of(http, cast)
    seen = await client.etag()
    assert (await client.send("PUT", "schema", SCHEMA, **{"if-match": seen})).status_code == 200
    for method in ("PUT", "DELETE"):
        problem(await client.send(method, "schema", {}), 428, "version_missing")
        problem(await client.send(method, "schema", {}, **{"if-match": seen}), 412, "precondition_failed")
    assert (await client.send("GET", "schema")).json()["number"] == 1


async def test_what_is_no_schema_is_refused_with_its_place(http: httpx.AsyncClient, cast: Cast) -> None:
    client = await client_of(http, cast)
    cases: list[tuple[Any, str]] = [
        ({"properties": {"a": {"type": "int"}}}, "/properties/a/type"),
        ({"properties": {"a/b": {"pattern": "(?=a)"}}}, "/properties/a~1b/pattern"),
        (b"{", ""),
        (b'{"a": 1, "a": 2}', ""),
        ([], ""),
        (None, ""),
        ({"const": "\0"}, "/const"),
    ]
    for body, path in cases:
        for method, what in (("PUT", "schema"), ("POST", "schema-trials")):
            said = problem(await client.send(method, what, body, **{"if-match": "*"}), 400, "input_invalid")
            assert paths(said) == [path], body
    answer = await client.send("PUT", "schema", {}, **{"if-match": "*", "content-type": "text/plain"})
    problem(answer, 415, "media_type_unsupported")
    too_large = {"enum": ["x" * 1000] * 300}
    problem(await client.send("PUT", "schema", too_large, **{"if-match": "*"}), 400, "input_invalid")
    problem(await client.send("PUT", "schema", b" " * 2**21, **{"if-match": "*"}), 413, "body_too_large")
    unnamed = await http.put(f"{client.path}/schema", json={}, headers={**client.key, "if-match": "*"})
    assert "type" in problem(unnamed, 400, "input_invalid")["detail"]
    assert (await client.send("GET", "schemas")).json()["items"] == []


async def test_a_schema_is_inferred_and_tried(http: httpx.AsyncClient, cast: Cast) -> None:
    client = await client_of(http, cast)
    problem(await client.send("POST", "schema-inferences"), 409, "schema_not_inferable")
    passing = await store(client.source_id, {"wei": BOUND}, type="order/created")
    failing = await store(client.source_id, {"wei": "1"}, type="order/created")
    proposal = (await client.send("POST", "schema-inferences")).json()
    assert (proposal["signals"], proposal["schema"]["required"]) == (2, ["wei"])
    trial = await client.send("POST", "schema-trials", SCHEMA)
    assert (trial.status_code, trial.json()["signals"], trial.json()["passed"]) == (200, 2, 1)
    assert trial.json()["failures"] == [
        {
            "signal_id": str(failing),
            "external_id": failing.hex,
            "received_at": trial.json()["failures"][0]["received_at"],
            "reasons": [{"message": "This must be of type integer.", "rule_id": None, "path": "/wei"}],
        }
    ]
    assert str(passing) not in trial.text
    assert (await client.send("GET", "schemas")).json()["items"] == []


async def test_keys_reach_schemas_by_their_scopes(http: httpx.AsyncClient, cast: Cast) -> None:
    client = await client_of(http, cast)
    await store(client.source_id, {"secret": "of a signal"}, type="order/created")
    client.key = await key_of(cast.alice, "sources:write")
    for what in ("schema-inferences", "schema-trials"):
        problem(await client.send("POST", what, {}), 403, "forbidden")
    client.key = await key_of(cast.alice, "sources:read", "signals:read")
    assert (await client.send("GET", "schemas")).status_code == 200
    problem(await client.send("PUT", "schema", {}, **{"if-match": "*"}), 403, "forbidden")


async def test_the_health_of_a_source_is_told(http: httpx.AsyncClient, cast: Cast) -> None:
    client = await client_of(http, cast)
    at = clock.now() - timedelta(hours=2)
    await store(client.source_id, {}, at=at, skew_ms=-90_000)
    health = (await client.send("GET", "health")).json()
    assert health["source_id"] == client.source_id
    assert health["last_signal_at"] == at.isoformat().replace("+00:00", "Z")
    assert (health["signals_24h"], health["refused_24h"], health["clock_skew_ms"]) == (1, 0, -90_000)
    assert [finding["code"] for finding in health["findings"]] == ["clock_skewed"]
    client.key = await key_of(cast.dave)
    problem(await client.send("GET", "health"), 404, "not_found")
