"""Who gets in: keys within their scopes, people within their roles, nobody into another organisation."""

from datetime import timedelta

import httpx
import pytest
import time_machine
from litestar import Litestar
from litestar.routes import HTTPRoute

from portal import clock
from portal.accounts.permissions import GRANTS, Permission
from portal.accounts.service import disable_member
from portal.db.columns import new_id
from tests.http.api import key_of, make_source, paths, problem, session_of
from tests.people import PASSWORD, Cast, Player


def credentials(player: Player, **changed: str) -> dict[str, str]:
    return {"email": player.email, "password": PASSWORD, "code": player.code(), **changed}


async def test_a_person_signs_in_and_out(http: httpx.AsyncClient, cast: Cast) -> None:
    answer = await http.post("/api/v1/sessions", json=credentials(cast.bob))
    assert answer.status_code == 201
    signed_in = answer.json()
    assert signed_in["complete"] is True
    assert [membership["slug"] for membership in signed_in["memberships"]] == ["acme"]
    assert "set-cookie" not in answer.headers
    own = {"Authorization": f"Bearer {signed_in['token']}"}
    me = (await http.get("/api/v1/me", headers=own)).json()
    assert (me["email"], me["name"]) == (cast.bob.email, "Bob")
    assert (await http.delete("/api/v1/sessions/current", headers=own)).status_code == 204
    problem(await http.get("/api/v1/me", headers=own), 401, "not_signed_in")


async def test_every_wrong_sign_in_gets_the_same_answer(http: httpx.AsyncClient, cast: Cast) -> None:
    told = []
    for wrong in (
        credentials(cast.bob, password="not the password at all"),
        credentials(cast.bob, email="nobody@example.org"),
        credentials(cast.bob, code="000000"),
        credentials(cast.bob, email="\N{GRINNING FACE}"),
    ):
        said = problem(await http.post("/api/v1/sessions", json=wrong), 401, "sign_in_failed")
        del said["correlation_id"]
        told.append(said)
    assert told == [told[0]] * 4


async def test_a_password_alone_opens_nothing(http: httpx.AsyncClient, cast: Cast) -> None:
    alone = {"email": cast.bob.email, "password": PASSWORD}
    signed_in = (await http.post("/api/v1/sessions", json=alone)).json()
    assert signed_in["complete"] is False
    problem(
        await http.get("/api/v1/me", headers={"Authorization": f"Bearer {signed_in['token']}"}), 401, "not_signed_in"
    )


async def test_a_session_ends_by_itself(http: httpx.AsyncClient, cast: Cast) -> None:
    own = await session_of(cast.bob)
    with time_machine.travel(clock.now() + timedelta(minutes=29)):
        assert (await http.get("/api/v1/me", headers=own)).status_code == 200
    with time_machine.travel(clock.now() + timedelta(minutes=29 + 31)):
        problem(await http.get("/api/v1/me", headers=own), 401, "not_signed_in")


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer sp_nonsense",
        "Bearer sp_0123456789_" + "A" * 49,
        "Bearer " + "x" * 10_000,
        "Bearer \xe9\xff",
    ],
)
async def test_what_is_no_key_gets_in_nowhere(http: httpx.AsyncClient, cast: Cast, sent: str) -> None:
    answer = await http.get("/api/v1/sources", headers={"Authorization": sent.encode("latin-1")})
    problem(answer, 401, "not_signed_in")


async def test_a_key_does_what_its_scopes_say(http: httpx.AsyncClient, cast: Cast) -> None:
    reader = await key_of(cast.alice, "sources:read")
    assert (await http.get("/api/v1/sources", headers=reader)).status_code == 200
    said = problem(
        await http.post("/api/v1/sources", json={"name": "x", "scheme": "github"}, headers=reader), 403, "forbidden"
    )
    assert "sources:write" in said["detail"]
    problem(await http.get("/api/v1/signals", headers=reader), 403, "forbidden")


async def test_a_key_made_over_the_api_works_until_it_is_revoked(http: httpx.AsyncClient, cast: Cast) -> None:
    own = await session_of(cast.alice)
    wanted = {"name": "ERP", "scopes": ["signals:read"], "expires_at": "2099-01-01T00:00:00Z"}
    made = await http.post("/api/v1/api-keys", json=wanted, headers=own)
    assert made.status_code == 201
    key = {"Authorization": f"Bearer {made.json()['token']}"}
    assert (await http.get("/api/v1/signals", headers=key)).status_code == 200
    path = f"/api/v1/api-keys/{made.json()['id']}"
    shown = await http.get(path, headers=own)
    assert made.json()["token"] not in shown.text
    problem(await http.delete(path, headers=own), 428, "version_missing")
    assert (await http.delete(path, headers={**own, "If-Match": shown.headers["etag"]})).status_code == 204
    problem(await http.get("/api/v1/signals", headers=key), 401, "not_signed_in")
    for scopes in (["actions:approve"], ["nonsense"], []):
        refused = await http.post("/api/v1/api-keys", json={**wanted, "scopes": scopes}, headers=own)
        assert problem(refused, 400, "input_invalid")["errors"]


async def test_nobody_gives_a_key_more_than_they_have(http: httpx.AsyncClient, cast: Cast) -> None:
    manager = await key_of(cast.alice, "api-keys:write", "api-keys:read")
    wanted = {"name": "more", "scopes": ["policies:write"]}
    problem(await http.post("/api/v1/api-keys", json=wanted, headers=manager), 403, "forbidden")


async def test_a_key_makes_no_policy_that_asks_nobody(http: httpx.AsyncClient, cast: Cast) -> None:
    key, own = await key_of(cast.alice), await session_of(cast.alice)
    nobody = {"name": "Nobody", "approvals_required": 0}
    problem(await http.post("/api/v1/policies", json=nobody, headers=key), 403, "forbidden")
    made = await http.post("/api/v1/policies", json=nobody | {"approvals_required": 1}, headers=key)
    version = {"If-Match": made.headers["etag"]}
    path = f"/api/v1/policies/{made.json()['id']}"
    problem(await http.put(path, json=nobody, headers=key | version), 403, "forbidden")
    changed = await http.put(path, json=nobody, headers=own | version)
    assert changed.json()["approvals_required"] == 0, "a person may"
    problem(
        await http.put(path, json=nobody | {"name": "More"}, headers=key | {"If-Match": changed.headers["etag"]}),
        403,
        "forbidden",
    )


async def test_a_disabled_member_is_out_at_once(http: httpx.AsyncClient, cast: Cast) -> None:
    own = await session_of(cast.bob)
    assert (await http.get("/api/v1/actions", headers=own)).status_code == 200
    assert cast.bob.actor.id
    await disable_member(cast.alice.actor, cast.bob.actor.id)
    assert (await http.get("/api/v1/actions", headers=own)).status_code in (401, 403, 404)


async def test_a_person_names_the_organisation_to_act_in(http: httpx.AsyncClient, cast: Cast) -> None:
    own = await session_of(cast.dave)
    key = await key_of(cast.alice)
    source = await make_source(http, key)
    assert (await http.get("/api/v1/sources", headers={**own, "X-Organization": "other"})).json()["items"] == []
    for slug in ("acme", "no-such", "'; drop table source; --", "é"):
        answer = await http.get("/api/v1/sources", headers={**own, "X-Organization": slug.encode()})
        problem(answer, 404, "not_found")
    # A key is of one organisation, whatever the header says.
    listed = (await http.get("/api/v1/sources", headers={**key, "X-Organization": "other"})).json()
    assert [item["id"] for item in listed["items"]] == [source["id"]]


def api_operations(app: Litestar) -> list[tuple[str, str, Permission]]:
    """Method, path and permission of every operation of the API that is for members."""
    return sorted(
        (method, route.path_format, handler.opt["permission"])
        for route in app.routes
        if isinstance(route, HTTPRoute) and route.path.startswith("/api/v1")
        for handler in route.route_handlers
        for method in handler.http_methods
        if method != "OPTIONS" and handler.opt["permission"] not in (Permission.PUBLIC, Permission.ACCOUNT)
    )


def ask(http: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]) -> httpx.Request:
    names = {part[1:-1] for part in path.split("/") if part.startswith("{")}
    filled = path.format(**{name: new_id() for name in names})
    body = {"json": {}} if method in ("POST", "PUT") else {}
    return http.build_request(method, filled, headers={"If-Match": "*", **headers}, **body)  # type: ignore[arg-type]


async def test_each_role_may_call_exactly_what_it_is_granted(
    http: httpx.AsyncClient, app: Litestar, cast: Cast
) -> None:
    """The whole matrix, from the routes themselves: 403 where the permission is missing, and only there."""
    operations = api_operations(app)
    assert len(operations) > 40
    wrong = []
    for player in (cast.alice, cast.bob, cast.carol, cast.oscar):
        own = await session_of(player)
        assert player.actor.role
        for method, path, permission in operations:
            answer = await http.send(ask(http, method, path, own))
            if (answer.status_code == 403) == (permission in GRANTS[player.actor.role]):
                wrong.append((player.actor.role.value, method, path, answer.status_code))
            assert answer.status_code < 500, answer.text
    assert wrong == []


async def test_a_stranger_and_a_key_without_scopes_get_nothing(
    http: httpx.AsyncClient, app: Litestar, cast: Cast
) -> None:
    narrow = await key_of(cast.alice, "health:read")
    for method, path, _ in api_operations(app):
        assert (await http.send(ask(http, method, path, {}))).status_code == 401
        assert (await http.send(ask(http, method, path, narrow))).status_code == 403


async def test_members_are_invited_changed_and_disabled(http: httpx.AsyncClient, cast: Cast) -> None:
    own = await session_of(cast.alice)
    invited = await http.post("/api/v1/members", json={"email": "eve@example.org", "role": "operator"}, headers=own)
    assert invited.status_code == 201
    assert invited.json()["url"].startswith("http://127.0.0.1:8000/invitations/")
    said = problem(
        await http.post("/api/v1/members", json={"email": "eve@example.org", "role": "queen"}, headers=own),
        400,
        "input_invalid",
    )
    assert paths(said) == ["/role"]
    path = f"/api/v1/members/{cast.oscar.actor.id}"
    seen = (await http.get(path, headers=own)).headers["etag"]
    changed = await http.put(f"{path}/role", json={"role": "auditor"}, headers={**own, "If-Match": seen})
    assert changed.json()["role"] == "auditor"
    problem(await http.delete(path, headers={**own, "If-Match": seen}), 412, "precondition_failed")
    etag = changed.headers["etag"]
    assert (await http.delete(path, headers={**own, "If-Match": etag})).status_code == 204
    listed = (await http.get("/api/v1/members", headers=own)).json()["items"]
    assert [m["email"] for m in listed if m["disabled_at"]] == [cast.oscar.email]
