"""API keys: made with scopes, shown once, revoked."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal import clock
from portal.accounts import api_keys
from portal.accounts import queries as accounts
from portal.accounts.permissions import SCOPES, Permission
from portal.errors import PortalError
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_list, read_values
from portal.web.render import AnyRequest, see_other

READ = {"permission": Permission.API_KEYS_READ}
WRITE = {"permission": Permission.API_KEYS_WRITE}
LABELS = {"api-keys": "API keys", "organization": "Organisation"}
"""Of scopes' nouns, where the noun itself does not read as the pages do."""
ENDS = [("30", "In 30 days"), ("90", "In 90 days"), ("365", "In a year"), ("", "Never")]


@get("/api-keys", opt=READ)
async def show_api_keys(request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None) -> Response[str]:
    return await _keys_page(request, desk, cursor=cursor)


@post("/api-keys", opt=WRITE)
async def create_api_key(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """The key is shown on this answer only; only its hash is kept."""
    values, scopes = await read_values(request), await read_list(request, "scopes")
    try:
        _, token = await api_keys.create_api_key(desk.actor, values.get("name", ""), scopes, _end(values))
    except PortalError as error:
        return await _keys_page(request, desk, values=values, scopes=scopes, error=error)
    return await _keys_page(request, desk, token=token)


@post("/api-keys/{api_key_id:uuid}/revoke", opt=WRITE)
async def revoke_api_key(request: AnyRequest, desk: AtDesk, api_key_id: FromPath[UUID]) -> Response[Any]:
    try:
        await api_keys.revoke_api_key(desk.actor, api_key_id)
    except PortalError as error:
        return await _keys_page(request, desk, error=error)
    return see_other(desk.url("api-keys"), done="key_revoked")


def _end(values: dict[str, str]) -> datetime | None:
    days = next((key for key, _ in ENDS if key == values.get("ends")), "")
    return clock.now() + timedelta(days=int(days)) if days else None


async def _keys_page(
    request: AnyRequest,
    desk: Desk,
    *,
    cursor: str | None = None,
    values: dict[str, str] | None = None,
    scopes: list[str] | None = None,
    token: str | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    found = await accounts.list_api_keys(desk.actor.organization_id, cursor=cursor)
    return desk_page(
        request,
        desk,
        "api_keys/list.html",
        active="api-keys",
        http_status=error.status if error else 200,
        home=desk.url("api-keys"),
        keys=found.items,
        next_cursor=found.next_cursor,
        cursor=cursor,
        may_write=desk.may("api-keys:write"),
        groups=_groups(desk),
        ends=ENDS,
        values={"name": "", "ends": "90"} | (values or {}),
        chosen=scopes or [],
        token=token,
        error=error,
    )


def _groups(desk: Desk) -> list[dict[str, Any]]:
    """The scopes that this member can give, those of one noun together."""
    nouns: dict[str, list[dict[str, str]]] = {}
    for scope in sorted(SCOPES & desk.actor.permissions, key=lambda scope: (not scope.endswith(":read"), scope)):
        noun, _, verb = scope.value.partition(":")
        nouns.setdefault(noun, []).append({"scope": scope.value, "verb": verb})
    return [
        {"noun": LABELS.get(noun, noun.replace("-", " ").capitalize()), "scopes": found}
        for noun, found in sorted(nouns.items())
    ]


handlers = [show_api_keys, create_api_key, revoke_api_key]
