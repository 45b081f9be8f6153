"""Pauses: stopping everything, a chain, a contract or a signer, and voting to go on."""

from typing import Any
from uuid import UUID

from litestar import Response, get, post
from litestar.params import FromPath, FromQuery

from portal.accounts.permissions import Permission
from portal.chain import queries as chain
from portal.errors import PortalError
from portal.transactions.controls import pauses
from portal.transactions.controls.pauses import PauseInput, PauseView
from portal.web.asking import AtDesk
from portal.web.desk import Desk, desk_page
from portal.web.forms import read_values, to_input
from portal.web.render import AnyRequest, see_other

EVERYTHING = "organization"
CHOICES = 200


@get("/pauses", opt={"permission": Permission.PAUSES_READ})
async def show_pauses(
    request: AnyRequest, desk: AtDesk, cursor: FromQuery[str | None] = None, what: FromQuery[str] = ""
) -> Response[str]:
    """`what` chooses beforehand what is to be paused, as `scope:subject`."""
    return await _pauses_page(request, desk, {"what": what}, cursor=cursor)


@post("/pauses", opt={"permission": Permission.PAUSES_WRITE})
async def begin_pause(request: AnyRequest, desk: AtDesk) -> Response[Any]:
    values = await read_values(request)
    scope, _, subject = values.get("what", "").partition(":")
    try:
        given = to_input({"scope": scope, "subject": subject, "reason": values.get("reason", "")}, PauseInput)
        await pauses.pause(desk.actor, given.scope, given.subject, given.reason)
    except PortalError as error:
        return await _pauses_page(request, desk, values, error=error)
    return see_other(desk.url("pauses"), done="pause_begun")


@post("/pauses/{pause_id:uuid}/resume", opt={"permission": Permission.ACTIONS_APPROVE})
async def vote_to_resume(request: AnyRequest, desk: AtDesk, pause_id: FromPath[UUID]) -> Response[Any]:
    await pauses.get_pause(desk.actor.organization_id, pause_id)
    try:
        view = await pauses.resume(desk.actor, pause_id)
    except PortalError as error:
        return await _pauses_page(request, desk, {}, error=error)
    return see_other(desk.url("pauses"), done="pause_ended" if view.ended_at else "resumption_voted")


async def _pauses_page(
    request: AnyRequest,
    desk: Desk,
    values: dict[str, str],
    *,
    cursor: str | None = None,
    error: PortalError | None = None,
) -> Response[str]:
    organization = desk.actor.organization_id
    lasting = (await pauses.list_pauses(organization, lasting=True, limit=200)).items
    ended = await pauses.list_pauses(organization, lasting=False, cursor=cursor, limit=20)
    may_pause = desk.may("pauses:write")
    return desk_page(
        request,
        desk,
        "pauses/list.html",
        active="pauses",
        http_status=error.status if error else 200,
        home=desk.url("pauses"),
        lasting=[{"pause": each, "why_not": _why_not_vote(desk, each)} for each in lasting],
        ended=ended.items,
        next_cursor=ended.next_cursor,
        cursor=cursor,
        may_pause=may_pause,
        choices=await _choices(desk, lasting) if may_pause else [],
        values={"what": "", "reason": ""} | values,
        error=error,
    )


def _why_not_vote(desk: Desk, pause: PauseView) -> str | None:
    """Why this member cannot vote now; None where they can."""
    if not desk.may("actions:approve"):
        return "People who may approve actions decide when it goes on."
    voted = any(vote.member_id == desk.actor.id for vote in pause.votes)
    if voted and pause.votes_given < pause.votes_required:
        return "You voted to go on. Others have to, as well."
    return None


async def _choices(desk: Desk, lasting: list[PauseView]) -> list[tuple[str, str]]:
    """What can be paused and is not: value and words, the widest first; of contracts and signers the newest 200."""
    organization = desk.actor.organization_id
    contracts = (await chain.list_contracts(organization, limit=CHOICES)).items
    # What can only receive is a signer's own address: it is paused as the signer that sends.
    contracts = [each for each in contracts if [one.name for one in each.functions] != ["receive"]]
    signers = (await chain.list_signers(organization, limit=CHOICES)).items
    found = [
        (f"{EVERYTHING}:", f"Everything in {desk.organization}"),
        *((f"chain:{each.id}", f"Chain {each.name}") for each in await chain.list_chains()),
        *((f"contract:{each.id}", f"Contract {each.name}") for each in contracts),
        *((f"signer:{each.id}", f"Signer {each.name}") for each in signers),
    ]
    paused = {f"{each.scope}:{'' if each.scope == EVERYTHING else each.subject}" for each in lasting}
    return [(value, words) for value, words in found if value not in paused]


handlers = [show_pauses, begin_pause, vote_to_resume]
