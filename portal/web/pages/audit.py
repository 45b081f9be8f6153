"""The audit: who did what, one story from its first signal to its end, and whether the chain of entries holds."""

from typing import Any

import msgspec
from litestar import Response, get, post
from litestar.params import FromQuery

from portal.accounts.permissions import Permission
from portal.audit import queries as audit
from portal.audit import service
from portal.audit.schemas import AuditEntryView
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.render import AnyRequest
from portal.web.stories import SENTENCES

READ = {"permission": Permission.AUDIT_READ}
FIELDS = ("kind", "subject_kind", "subject_id", "correlation_id")
PLACES = {
    "signal": "signals/{}",
    "source": "sources/{}",
    "rule": "rules/{}",
    "action": "actions/{}",
    "transaction": "transactions/{}",
    "lane": "lanes/{}",
    "pause": "pauses",
    "policy": "policies/{}",
    "contract": "contracts/{}",
    "signer": "signers/{}",
    "signer_group": "signers/groups/{}",
    "end_user": "end-users/{}",
    "member": "people",
    "api_key": "api-keys",
    "webhook": "webhooks/{}",
}
"""Where the subject of an entry is shown, by its kind."""
WORDS = {"signer_group": "Group of signers", "end_user": "End user", "api_key": "API key"}
MOST_CHECKED = 50_000
"""Entries that a page recomputes while somebody waits; a longer chain is for the command."""


@get("/audit", opt=READ)
async def show_audit(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    return await _audit_page(request, desk, cursor=cursor)


@post("/audit/verify", opt=READ)
async def verify_audit(request: AnyRequest, desk: AtDesk) -> Response[str]:
    head = await _find_head(desk)
    if head is not None and head.sequence > MOST_CHECKED:
        return await _audit_page(request, desk, verdict={"checked": False})
    broken = await service.verify(desk.actor.organization_id)
    return await _audit_page(request, desk, verdict={"checked": True, "broken": broken, "head": head})


async def _audit_page(
    request: AnyRequest, desk: Desk, *, cursor: str | None = None, verdict: dict[str, Any] | None = None
) -> Response[str]:
    organization = desk.actor.organization_id
    given = {name: str(request.query_params.get(name, "")).replace("\x00", "").strip() for name in FIELDS}
    asked = {name: value for name, value in given.items() if value}
    story = asked.get("correlation_id", "") if set(asked) == {"correlation_id"} else ""
    found = await audit.list_entries(organization, **asked, cursor=cursor)  # type: ignore[arg-type]
    return desk_page(
        request,
        desk,
        "audit/list.html",
        active="audit",
        home=desk.url("audit"),
        entries=[_told(desk, entry) for entry in found.items],
        story=[_told(desk, entry) for entry in await audit.list_story(organization, story)] if story else [],
        asked=given,
        narrowed=bool(asked),
        subjects=[("", "Any subject"), *((kind, _word(kind)) for kind in PLACES)],
        kinds=sorted(SENTENCES),
        head=await _find_head(desk),
        most_checked=MOST_CHECKED,
        verdict=verdict,
        next_cursor=found.next_cursor,
        cursor=cursor,
    )


async def _find_head(desk: Desk) -> AuditEntryView | None:
    newest = await audit.list_entries(desk.actor.organization_id, limit=1)
    return next(iter(newest.items), None)


def _told(desk: Desk, entry: AuditEntryView) -> dict[str, Any]:
    place = PLACES.get(entry.subject_kind)
    _, icon, tone = SENTENCES.get(entry.kind, ("", "point", "calm"))
    return {
        "entry": entry,
        "words": entry.kind.replace(".", " ").replace("_", " ").capitalize().replace("Api key", "API key"),
        "subject": _word(entry.subject_kind),
        "href": desk.url(place.format(entry.subject_id)) if place else None,
        "by_person": entry.actor_kind in ("member", "end_user"),
        "detail": msgspec.json.format(msgspec.json.encode(entry.detail)).decode() if entry.detail else "",
        "icon": icon,
        "tone": tone,
    }


def _word(kind: str) -> str:
    return WORDS.get(kind, kind.replace("_", " ").capitalize())


handlers = [show_audit, verify_audit]
