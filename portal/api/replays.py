"""Replays and rechecks: signals that are assessed, or checked, once more."""

from typing import Annotated
from uuid import UUID

from litestar import Response, Router, delete, get
from litestar.params import FromPath

from portal.accounts.permissions import Permission
from portal.api.lists import DEFAULT_LIMIT, Cursor, Limit
from portal.api.operations import ETAG, EXAMPLE_ID, Acting, created, example, post, problems
from portal.api.versions import IfMatch, require_match, with_etag
from portal.db.paging import Page
from portal.rules import replays
from portal.rules.replay_previews import ReplayPreview, preview_replay
from portal.signals.batches import rechecks
from portal.signals.batches import service as batches
from portal.signals.batches.schemas import BatchKind, BatchView, SignalSelection

READ_REPLAYS = {"permission": Permission.RULES_READ}
WRITE_REPLAYS = {"permission": Permission.RULES_WRITE}
READ_RECHECKS = {"permission": Permission.SOURCES_READ}
WRITE_RECHECKS = {"permission": Permission.SOURCES_WRITE}
SelectionBody = Annotated[
    SignalSelection, example({"filter": {"status": "failed", "source_id": EXAMPLE_ID, "since": "2026-05-03T00:00:00Z"}})
]


@post(
    "/replays/previews",
    status_code=200,
    summary="Preview a replay",
    description=(
        "What the rules that are published now would make of the selected signals, worked out for the newest 1,000 of "
        "them. Nothing is stored."
    ),
    opt=WRITE_REPLAYS,
    responses=problems(422),
)
async def preview(actor: Acting, data: SelectionBody) -> ReplayPreview:
    return await preview_replay(actor, data)


@post(
    "/replays",
    summary="Replay signals",
    description=(
        "Sets the selected signals back, in the background, to be assessed by the rules that are published then. What "
        "a rule proposed for a signal once, it does not propose again, so nothing is executed twice."
    ),
    opt=WRITE_REPLAYS,
    responses=problems(409, 422),
)
async def start_replay(actor: Acting, data: SelectionBody) -> Response[BatchView]:
    view = await replays.start_replay(actor, data)
    return created(view, f"replays/{view.id}", version=view.ended_at)


@get("/replays", summary="List replays", opt=READ_REPLAYS, responses=problems())
async def list_replays(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[BatchView]:
    return await batches.list_batches(actor.organization_id, BatchKind.REPLAY, cursor=cursor, limit=limit)


@get(
    "/replays/{replay_id:uuid}",
    summary="Get a replay",
    opt=READ_REPLAYS,
    response_headers=ETAG,
    responses=problems(404),
)
async def get_replay(actor: Acting, replay_id: FromPath[UUID]) -> Response[BatchView]:
    view = await batches.get_batch(actor.organization_id, BatchKind.REPLAY, replay_id)
    return with_etag(view, view.ended_at)


@delete(
    "/replays/{replay_id:uuid}",
    summary="Cancel a replay",
    description="Signals that it has set back already are assessed; the others stay as they are. Needs If-Match.",
    opt=WRITE_REPLAYS,
    responses=problems(404, 409, 412, 428),
)
async def cancel_replay(actor: Acting, replay_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    seen = await batches.get_batch(actor.organization_id, BatchKind.REPLAY, replay_id)
    require_match(if_match, seen.ended_at)
    await batches.cancel(actor, BatchKind.REPLAY, replay_id)


@post(
    "/rechecks",
    summary="Check quarantined signals again",
    description=(
        "Checks the selected signals that are in quarantine, in the background, against the schema that is in force "
        "then. Those that pass are assessed by the rules; the others stay, each with its reasons of today."
    ),
    opt=WRITE_RECHECKS,
    responses=problems(409, 422),
)
async def start_recheck(actor: Acting, data: SelectionBody) -> Response[BatchView]:
    view = await rechecks.start_recheck(actor, data)
    return created(view, f"rechecks/{view.id}", version=view.ended_at)


@get("/rechecks", summary="List rechecks", opt=READ_RECHECKS, responses=problems())
async def list_rechecks(actor: Acting, cursor: Cursor = None, limit: Limit = DEFAULT_LIMIT) -> Page[BatchView]:
    return await batches.list_batches(actor.organization_id, BatchKind.RECHECK, cursor=cursor, limit=limit)


@get(
    "/rechecks/{recheck_id:uuid}",
    summary="Get a recheck",
    opt=READ_RECHECKS,
    response_headers=ETAG,
    responses=problems(404),
)
async def get_recheck(actor: Acting, recheck_id: FromPath[UUID]) -> Response[BatchView]:
    view = await batches.get_batch(actor.organization_id, BatchKind.RECHECK, recheck_id)
    return with_etag(view, view.ended_at)


@delete(
    "/rechecks/{recheck_id:uuid}",
    summary="Cancel a recheck",
    description="Signals that it has released already are assessed; the others stay in quarantine. Needs If-Match.",
    opt=WRITE_RECHECKS,
    responses=problems(404, 409, 412, 428),
)
async def cancel_recheck(actor: Acting, recheck_id: FromPath[UUID], *, if_match: IfMatch = None) -> None:
    seen = await batches.get_batch(actor.organization_id, BatchKind.RECHECK, recheck_id)
    require_match(if_match, seen.ended_at)
    await batches.cancel(actor, BatchKind.RECHECK, recheck_id)


replays_router = Router(
    "/",
    route_handlers=[
        preview,
        start_replay,
        list_replays,
        get_replay,
        cancel_replay,
        start_recheck,
        list_rechecks,
        get_recheck,
        cancel_recheck,
    ],
    tags=["Replays"],
)
