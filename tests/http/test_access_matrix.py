"""Who may reach what, asked of every route that there is: roles, strangers, other organisations, other sites' forms.

The requests are made from the application's own route table, so a route that somebody adds is asked too.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio
from litestar import Litestar
from litestar.routes import HTTPRoute

from portal import clock
from portal.accounts.invitations import invite_member
from portal.accounts.permissions import GRANTS, Permission, Role
from portal.accounts.schemas import ProvenPerson
from portal.accounts.service import change_role, disable_member
from portal.accounts.sessions import COOKIE, csrf_token, start_session
from portal.accounts.tables import Person
from portal.actions.queries import list_actions
from portal.actions.service import create_group
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.notify.jobs import publish_events
from portal.notify.queries import list_deliveries
from portal.notify.schemas import WebhookInput
from portal.notify.service import create_webhook, send_test
from portal.rules.replays import start_replay
from portal.rules.service import assess
from portal.signals.batches.exports import start_export
from portal.signals.batches.rechecks import start_recheck
from portal.signals.batches.schemas import ExportInput, SignalSelection
from portal.signals.json_schemas.service import set_schema
from portal.signals.schemas import SignalFilter
from portal.transactions.controls.pauses import pause
from portal.transactions.tables import PauseScope
from tests.http.api import key_of
from tests.people import Cast, Player
from tests.rules import ARGUMENTS, CONDITION, MINT, make_rule_stage
from tests.signals import sponsorship

OPEN = (Permission.PUBLIC, Permission.ACCOUNT)
UNSAFE = ("POST", "PUT", "DELETE")
BEYOND = re.compile(r"^/(static|api/docs|api/openapi\.json|api$|api/\{)")
"""What the framework serves by itself: files and the API's description, for anyone."""
EXAMPLES: dict[str, dict[str, Any]] = {
    "PUT /api/v1/sources/{source_id}": {"name": "Taken over", "body_cap_bytes": 2048},
    "PUT /api/v1/sources/{source_id}/status": {"status": "paused"},
    "POST /api/v1/sources/{source_id}/secrets": {"overlap_seconds": 0},
    "PUT /api/v1/sources/{source_id}/schema": {"type": "object"},
    "POST /api/v1/sources/{source_id}/acceptances": {"cause": "signature_invalid"},
    "PUT /api/v1/webhooks/{webhook_id}": {"name": "Taken over", "url": "https://example.org/", "types": ["*"]},
    "PUT /api/v1/webhooks/{webhook_id}/status": {"status": "disabled"},
    "PUT /api/v1/signers/{signer_id}/status": {"status": "disabled"},
    "PUT /api/v1/signer-groups/{group_id}": {"name": "Taken over", "signer_ids": []},
    "PUT /api/v1/contracts/{contract_id}/senders": {"signer_id": "0199c3a4-6f2e-7b1d-9c57-2f8e4a1b3c5d"},
    "PUT /api/v1/policies/{policy_id}": {"name": "Anybody", "approvals_required": 1},
    "POST /api/v1/actions/{action_id}/approvals": {"digest": "0" * 64, "code": "123456"},
    "POST /api/v1/actions/{action_id}/rejections": {"reason": "Because I can."},
    "POST /api/v1/actions/{action_id}/cancellations": {"reason": "Because I can."},
    "PUT /api/v1/members/{member_id}/role": {"role": "auditor"},
    "PUT /api/v1/rules/{rule_id}": {
        "name": "Taken over",
        "condition": CONDITION,
        "contract_id": "of `ids`",
        "function": MINT,
        "arguments": ARGUMENTS,
        "policy_id": "of `ids`",
    },
}
FORM = {"digest": "0" * 64, "code": "123456", "reason": "Because I can.", "role": "auditor", "name": "Taken over"}


@dataclass(frozen=True)
class Route:
    method: str
    path: str
    permission: Permission

    @property
    def is_api(self) -> bool:
        return self.path.startswith("/api/")

    @property
    def names(self) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path)


@dataclass(frozen=True)
class Visitor:
    """Somebody with a session, in a browser and with the API alike."""

    token: str
    slug: str

    def request(self, http: httpx.AsyncClient, route: Route, ids: dict[str, str], **headers: str) -> httpx.Request:
        path = route.path.format(**({"slug": self.slug} | ids))
        if route.is_api:
            body = {name: ids.get(name, value) for name, value in EXAMPLES.get(_named(route), {}).items()}
            sent = {"authorization": f"Bearer {self.token}", "x-organization": self.slug, "if-match": "*", **headers}
            json = {"json": body} if route.method in ("POST", "PUT") else {}
            # Some resources are told apart by it; the others do not know it.
            asked = {"params": {"type": "order"}} if "/schema" in path else {}
            return http.build_request(route.method, path, headers=sent, **json, **asked)  # type: ignore[arg-type]
        sent = {"cookie": f"{COOKIE}={self.token}", **headers}
        if route.method not in UNSAFE:
            return http.build_request(route.method, path, headers=sent)
        form = FORM | {"csrf_token": csrf_token(self.token)}
        return http.build_request(route.method, path, headers=sent, data=form)


def _named(route: Route) -> str:
    return f"{route.method} {route.path}"


@pytest.fixture
def routes(app: Litestar) -> list[Route]:
    found = {
        Route(method, route.path_format, handler.opt["permission"])
        for route in app.routes
        if isinstance(route, HTTPRoute) and not BEYOND.match(route.path_format)
        for handler in route.route_handlers
        for method in handler.http_methods - {"OPTIONS", "HEAD"}
    }
    assert len(found) > 100
    return sorted(found, key=_turn)


def _turn(route: Route) -> tuple[int, int, str]:
    """Reading first. What is deleted is gone for the requests after it: so last, and a part before the whole."""
    place = ("GET", *UNSAFE).index(route.method)
    return place, -len(route.names) if route.method == "DELETE" else 0, route.path


def guarded(routes: list[Route]) -> list[Route]:
    return [route for route in routes if route.permission not in OPEN]


async def visit(player: Player, slug: str, *, complete: bool = True) -> Visitor:
    """A session, made without spending a code."""
    person = ProvenPerson(id=player.person_id, email=player.email, name=player.email, has_second_factor=True)
    proven_at = clock.now() if complete else None
    async with transaction():
        signed_in = await start_session(
            person, ip="", user_agent="", second_factor_at=proven_at, expires_at=clock.now() + timedelta(hours=1)
        )
    return Visitor(signed_in.token, slug)


@pytest_asyncio.fixture
async def foreign(cast: Cast) -> dict[str, str]:
    """One of everything in dave's organisation, by the name under which a route asks for it."""
    stage = await make_rule_stage(cast, cast.dave)
    rule = await stage.publish(cast.dave)
    signal = await stage.sender.deliver(sponsorship())
    assert await assess() == 1
    organization_id = cast.dave.actor.organization_id
    action = (await list_actions(organization_id)).items[0]
    await key_of(cast.dave)
    second = new_id()
    await run_sql(
        """INSERT INTO source_secret (id, source, ciphertext, hint, created_at)
           SELECT {}, source, ciphertext, hint, created_at FROM source_secret WHERE source = {}""",
        second,
        stage.sender.source_id,
    )
    signer, lane, sent, key = (
        (await run_sql("SELECT id FROM signer WHERE organization = {} AND purpose = 'sends'", organization_id))[0][
            "id"
        ],
        new_id(),
        new_id(),
        (await run_sql("SELECT id FROM api_key WHERE organization = {}", organization_id))[0]["id"],
    )
    await run_sql(
        "INSERT INTO lane (id, organization, signer, chain) VALUES ({}, {}, {}, 31337)", lane, organization_id, signer
    )
    await run_sql(
        """INSERT INTO transaction (id, organization, action, lane, status, correlation_id, queued_at)
           VALUES ({}, {}, {}, {}, 'queued', 'test', now())""",
        sent,
        organization_id,
        action.id,
        lane,
    )
    await set_schema(cast.dave.actor, stage.sender.source_id, "order", {})
    invitation, _ = await invite_member(cast.dave.actor, "erin@example.org", Role.AUDITOR)
    ids: dict[str, UUID | None] = {
        "source_id": stage.sender.source_id,
        "secret_id": second,
        "signal_id": signal.signal_id,
        "rule_id": rule.id,
        "action_id": action.id,
        "contract_id": stage.contract_id,
        "policy_id": stage.policy_id,
        "signer_id": signer,
        "group_id": (await create_group(cast.dave.actor, "Minters")).id,
        "transaction_id": sent,
        "lane_id": lane,
        "pause_id": (await pause(cast.dave.actor, PauseScope.CHAIN, "31337", "To look into it.")).id,
        "member_id": cast.dave.actor.id,
        "end_user_id": action.end_user_id,
        "api_key_id": key,
        "invitation_id": invitation.id,
        **await work_of(cast.dave, stage.sender.source_id),
        **await subscription_of(cast.dave),
    }
    return {"type": "order", **{name: str(id) for name, id in ids.items()}}


async def work_of(player: Player, source_id: UUID) -> dict[str, UUID]:
    """Work over signals that waits, and a delivery that was refused."""
    everything, rejected = SignalSelection(filter=SignalFilter()), new_id()
    await run_sql(
        """INSERT INTO rejected_delivery (id, organization, source, cause, detail, body_bytes, ip, correlation_id,
                                          received_at)
           VALUES ({}, {}, {}, 'signature_invalid', 'test', 0, '', 'test', now())""",
        rejected,
        player.actor.organization_id,
        source_id,
    )
    return {
        "export_id": (await start_export(player.actor, ExportInput(format="csv"))).id,
        "replay_id": (await start_replay(player.actor, everything)).id,
        "recheck_id": (await start_recheck(player.actor, everything)).id,
        "rejected_id": rejected,
    }


async def subscription_of(player: Player) -> dict[str, UUID]:
    """A webhook with something to deliver."""
    view, _ = await create_webhook(player.actor, WebhookInput(name="ERP", url="https://example.org/", types=["*"]))
    await send_test(player.actor, view.id)
    await publish_events()
    delivery = (await list_deliveries(player.actor.organization_id, view.id)).items[0]
    return {
        "webhook_id": view.id,
        "webhook_secret_id": view.secrets[0].id,
        "delivery_id": delivery.id,
        "event_id": delivery.event_id,
    }


async def test_nothing_of_another_organisation_is_there(
    http: httpx.AsyncClient, routes: list[Route], cast: Cast, foreign: dict[str, str]
) -> None:
    """Alice may do everything in her organisation, and has every id of dave's."""
    addressed = [route for route in guarded(routes) if set(route.names) - {"slug"}]
    assert len(addressed) > 50
    missing = {name for route in addressed for name in route.names} - {"slug"} - foreign.keys()
    assert not missing, "the fixture `foreign` has none of these yet"
    alice, dave = await visit(cast.alice, "acme"), await visit(cast.dave, "other")
    known = await _rows_of(cast.dave)
    for route in addressed:
        answer = await http.send(alice.request(http, route, foreign))
        assert answer.status_code == 404, (_named(route), answer.status_code)
        assert "Taken over" not in answer.text
    assert await _rows_of(cast.dave) == known, "a refused request has changed something"
    for route in addressed:
        answer = await http.send(dave.request(http, route, foreign | await _spare(cast.dave, route)))
        assert answer.status_code != 404, f"{_named(route)}: refused to its owner too, so the refusal proves nothing"
        assert answer.status_code < 500, (_named(route), answer.text)
        dave = await visit(cast.dave, "other")  # some of these end his sessions


async def _spare(player: Player, route: Route) -> dict[str, str]:
    """What a page deletes is still there for the API that does the same later: it has one of its own to delete."""
    if route.path.endswith("/groups/{group_id}/remove"):
        return {"group_id": str((await create_group(player.actor, "Spare")).id)}
    return {}


async def _rows_of(player: Player) -> list[Any]:
    organization_id = player.actor.organization_id
    return await run_sql(
        """SELECT (SELECT count(*) FROM audit_entry WHERE organization = {0}) AS entries,
                  (SELECT string_agg(s::text, '') FROM source s WHERE organization = {0}) AS sources,
                  (SELECT string_agg(r::text, '') FROM rule r WHERE organization = {0}) AS rules,
                  (SELECT string_agg(a::text, '') FROM action a WHERE organization = {0}) AS actions,
                  (SELECT count(*) FROM decision WHERE organization = {0}) AS decisions,
                  (SELECT count(*) FROM invitation WHERE organization = {0}) AS invitations,
                  (SELECT string_agg(w::text, '') FROM webhook w WHERE organization = {0}) AS webhooks,
                  (SELECT string_agg(s::text, '') FROM signer s WHERE organization = {0}) AS signers,
                  (SELECT string_agg(g::text, '') FROM signer_group g WHERE organization = {0}) AS signer_groups,
                  (SELECT count(*) FROM source_secret) AS secrets,
                  (SELECT count(*) FROM webhook_secret) AS webhook_secrets""".replace("{0}", "{}"),
        *[organization_id] * 9,
    )


async def test_another_organisations_address_is_nowhere(
    http: httpx.AsyncClient, routes: list[Route], cast: Cast, foreign: dict[str, str]
) -> None:
    """The same as a name that nobody has: 404, whatever the role and whatever follows in the address."""
    for player in (cast.alice, cast.carol):
        inside, outside = await visit(player, "other"), await visit(player, "no-such")
        for route in guarded(routes):
            theirs = await http.send(inside.request(http, route, foreign))
            nobodys = await http.send(outside.request(http, route, foreign))
            assert theirs.status_code == nobodys.status_code == 404, _named(route)


async def test_each_role_gets_exactly_its_routes(http: httpx.AsyncClient, routes: list[Route], cast: Cast) -> None:
    """403 where the permission is missing, and only there; nothing is found under ids that nobody has."""
    wrong = []
    for player in (cast.alice, cast.bob, cast.carol, cast.oscar):
        visitor = await visit(player, "acme")
        assert player.actor.role
        for route in guarded(routes):
            nobody = {name: str(new_id()) for name in (*route.names, "contract_id", "policy_id") if name != "slug"}
            answer = await http.send(visitor.request(http, route, nobody))
            if (answer.status_code == 403) == (route.permission in GRANTS[player.actor.role]):
                wrong.append((player.actor.role.value, _named(route), answer.status_code))
            assert answer.status_code < 500, (_named(route), answer.text)
            if set(route.names) - {"slug"} and answer.status_code != 403:
                assert answer.status_code == 404, (_named(route), answer.status_code)
    assert wrong == []


async def test_strangers_and_half_sessions_get_nothing(
    http: httpx.AsyncClient, routes: list[Route], cast: Cast, foreign: dict[str, str]
) -> None:
    half = await visit(cast.dave, "other", complete=False)
    dead = Visitor("A" * 43, "other")
    for route in routes:
        if route.permission is Permission.PUBLIC:
            continue
        ids = foreign | {"session_id": str(new_id())}
        for visitor in (half, dead):
            answer = await http.send(visitor.request(http, route, ids))
            if route.is_api:
                assert answer.status_code == 401, _named(route)
            else:
                assert answer.status_code == 303, _named(route)
                assert answer.headers["location"].startswith("/login")
            assert not answer.cookies


async def test_an_api_key_opens_no_page(
    http: httpx.AsyncClient, routes: list[Route], cast: Cast, foreign: dict[str, str]
) -> None:
    key = await key_of(cast.dave)
    for route in routes:
        if route.is_api or route.permission is Permission.PUBLIC:
            continue
        path = route.path.format(**foreign, slug="other", session_id=new_id())
        answer = await http.request(route.method, path, headers=key)
        assert answer.status_code in (400, 403, 404), (_named(route), answer.status_code)


async def test_no_cookie_is_taken_for_a_key(http: httpx.AsyncClient, routes: list[Route], cast: Cast) -> None:
    """However the address of the API is spelled, the cookie that a browser sends by itself does not count there."""
    cookie = {"cookie": f"{COOKIE}={(await visit(cast.alice, 'acme')).token}", "x-organization": "acme"}
    for path in ("/api/v1/sources", "//api/v1/sources", "/%61pi/v1/sources", "/api//v1//sources", "/api/v1/sources/"):
        answer = await http.get(f"http://127.0.0.1:8000{path}", headers=cookie)
        assert answer.status_code in (401, 404), path
    for route in guarded(routes):
        if route.is_api:
            path = route.path.format(**{name: new_id() for name in route.names})
            assert (await http.request(route.method, path, headers=cookie)).status_code == 401, _named(route)


async def test_every_form_needs_the_token_of_its_session(
    http: httpx.AsyncClient, routes: list[Route], cast: Cast, foreign: dict[str, str]
) -> None:
    """Whoever is signed in and visits another site changes nothing here; not even by the forms that are open to all."""
    dave, other = await visit(cast.dave, "other"), await visit(cast.dave, "other")
    known = await _rows_of(cast.dave)
    forms = [route for route in routes if route.method in UNSAFE and not route.is_api]
    assert len(forms) > 25
    for route in forms:
        path = route.path.format(**foreign, slug="other", session_id=new_id(), token="x" * 43)
        own = {"cookie": f"{COOKIE}={dave.token}"}
        right = {**FORM, "csrf_token": csrf_token(dave.token)}
        for fields, headers in (
            (FORM, {}),
            ({**FORM, "csrf_token": ""}, {}),
            ({**FORM, "csrf_token": csrf_token(other.token)}, {}),
            (FORM, {"x-csrf-token": "é"}),
            (right, {"sec-fetch-site": "cross-site"}),
            (right, {"sec-fetch-site": "same-site"}),
            (right, {"origin": "https://evil.example"}),
            (right, {"origin": "null"}),
            (right, {"origin": "http://[evil"}),
        ):
            sent = {name.encode(): value.encode() for name, value in (own | headers).items()}
            answer = await http.post(path, data=fields, headers=sent)
            assert answer.status_code == 403, (_named(route), fields, headers, answer.status_code)
    assert await _rows_of(cast.dave) == known


async def test_what_was_taken_away_is_gone_with_the_next_request(http: httpx.AsyncClient, cast: Cast) -> None:
    oscar, bob = await visit(cast.oscar, "acme"), await visit(cast.bob, "acme")
    page = Route("GET", "/orgs/{slug}/sources/new", Permission.SOURCES_WRITE)
    assert (await http.send(oscar.request(http, page, {}))).status_code == 200
    assert cast.oscar.actor.id
    assert cast.bob.actor.id
    await change_role(cast.alice.actor, cast.oscar.actor.id, Role.AUDITOR)
    assert (await http.send(oscar.request(http, page, {}))).status_code == 403
    await disable_member(cast.alice.actor, cast.bob.actor.id)
    inbox = Route("GET", "/orgs/{slug}/inbox", Permission.ACTIONS_READ)
    assert (await http.send(bob.request(http, inbox, {}))).headers["location"].startswith("/login")
    again = await visit(cast.bob, "acme")
    assert (await http.send(again.request(http, inbox, {}))).status_code == 404
    await Person.update({Person.disabled_at: clock.now()}).where(Person.id == cast.bob.person_id)
    assert (await http.send(again.request(http, inbox, {}))).headers["location"].startswith("/login")


@pytest.mark.parametrize("path", ["/login", "/orgs/acme/inbox", "/api/v1/sources", "/nowhere", "/health"])
async def test_nothing_that_somebody_may_see_is_kept_by_a_cache(http: httpx.AsyncClient, cast: Cast, path: str) -> None:
    visitor = await visit(cast.alice, "acme")
    sent = {"cookie": f"{COOKIE}={visitor.token}"}
    assert (await http.get(path, headers=sent)).headers["cache-control"] == "no-store"
