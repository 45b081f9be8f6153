"""`poll`: asks a JSON API for its list again and again; each item becomes a signal once, with the bytes it came in."""

import hashlib
import json
import re
from typing import Annotated, Any
from uuid import UUID

import msgspec
from yarl import URL

from portal.db.engine import run_sql
from portal.egress import check_url
from portal.errors import FieldError, InputInvalid
from portal.signals.intake.service import PulledFact
from portal.signals.pointers import Pointer, find
from portal.signals.pulls.fetching import Answer, get_json
from portal.signals.pulls.items import list_items, read_answer
from portal.signals.pulls.kinds import Claim, Position, PullFailed, PullKind, Step
from portal.signals.schemes.base import TYPE, type_of

LONGEST_ID = 256
LONGEST_CURSOR = 2000
LONGEST_SECRET = 2000
HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
OUR_HEADERS = frozenset(
    {"accept", "connection", "content-length", "expect", "host", "if-none-match", "te", "transfer-encoding", "upgrade"}
)

Parameter = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.~\[\]-]+$")]


class Cursor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="by", tag="cursor"):
    """Each answer names the cursor of the next page."""

    next: Pointer
    """Where the cursor is in an answer; null, empty or missing on the last page."""
    parameter: Parameter = "cursor"
    newest_first: bool = False
    """False: new items come at the end, and the last page is asked for again. True: they come first, and pages are read
    from the first one on until one holds nothing new."""


class Etag(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="by", tag="etag"):
    """The whole list each time, but only if it has changed: `If-None-Match` with the last ETag."""


class Since(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="by", tag="since"):
    """The oldest item first, from a value on that the last item had."""

    value: Pointer
    """Where the value is in an item, such as `/updated_at`."""
    parameter: Parameter = "since"


class PollSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]
    header: str | None = None
    """The header that holds the source's secret; None is `Authorization: Bearer ...`."""
    items: Pointer | None = None
    """Where the array of items is in an answer; None is the answer itself."""
    id: Pointer | None = None
    """Where the id is in an item. None: the item's content is its id, so each new form of an item is a new signal."""
    type: str | None = None
    """The type of all signals."""
    type_at: Pointer | None = None
    """Where the type is in an item; without both, `/type`."""
    paging: Cursor | Etag | Since | None = None
    """None: the whole list each time."""
    interval_seconds: Annotated[int, msgspec.Meta(ge=5, le=86400)] = 60


async def check(_organization_id: UUID, settings: PollSettings) -> None:
    """Raises `InputInvalid` with everything that is wrong with the settings."""
    problems = []
    try:
        check_url(settings.url, "/settings/url")
    except FieldError as problem:
        problems.append(problem)
    header = settings.header
    if header is not None and (not HEADER.fullmatch(header) or header.lower() in OUR_HEADERS):
        problems.append(FieldError("/settings/header", f"{header[:100]!r} is not a header that can hold the secret."))
    if settings.type is not None and not TYPE.fullmatch(settings.type):
        problems.append(FieldError("/settings/type", "A type has letters, digits and _ . : / - and no more than 128."))
    if settings.type is not None and settings.type_at is not None:
        problems.append(FieldError("/settings/type_at", "Give either the type itself or where it is, not both."))
    if problems:
        raise InputInvalid(str(problems[0]), fields=problems)


def check_secret(secret: str, _settings: Any = None) -> str:
    """What a header can hold. Raises `InputInvalid` at `/secret`."""
    printable = secret.isascii() and secret.isprintable() and secret == secret.strip()
    if not printable or not 1 <= len(secret) <= LONGEST_SECRET:
        raise InputInvalid.at(
            "/secret",
            f"The secret must have 1 to {LONGEST_SECRET} printable ASCII characters, none a space at its ends.",
        )
    return secret


def first_position(_settings: PollSettings) -> Position:
    return {}


def keeps_position(before: PollSettings, after: PollSettings) -> bool:
    """A cursor or an ETag means nothing to another list."""
    return (before.url, before.items, before.paging) == (after.url, after.items, after.paging)


def describe(position: Position) -> str:
    match position:
        case {"cursor": cursor}:
            return f"After the cursor {cursor}."
        case {"complete": True}:
            return "All read; from the first page on, until one holds nothing new."
        case {"etag": etag}:
            return f"As of the ETag {etag}."
        case {"since": since}:
            return f"From {since} on."
    return "From the start of the list."


async def fetch(claim: Claim, position: Position) -> Step:
    """One page. Raises `PullFailed`."""
    settings: PollSettings = claim.settings
    answer = await get_json(_url(settings, position), _headers(settings, claim.secret, position))
    if answer.body is None:
        return Step(facts=[], position=position, more=False)
    payload = read_answer(answer.body)
    items = list_items(answer.body, payload, settings.items)
    facts = [_fact(settings, place, item, raw) for place, (item, raw) in enumerate(items)]
    match settings.paging:
        case Cursor() as paging:
            return await _by_cursor(claim, paging, facts, _next_cursor(paging, payload), position)
        case Since() as paging:
            return _by_since(paging, facts, items[-1][0] if items else None, position)
    return Step(facts=facts, position=_etag(settings, answer), more=False)


def _url(settings: PollSettings, position: Position) -> URL:
    url = URL(settings.url)
    match settings.paging:
        case Cursor(parameter=parameter) if "cursor" in position:
            return url.update_query({parameter: position["cursor"]})
        case Since(parameter=parameter) if "since" in position:
            return url.update_query({parameter: position["since"]})
    return url


def _headers(settings: PollSettings, secret: str | None, position: Position) -> dict[str, str]:
    headers = {"User-Agent": "signal-portal"}
    if secret is not None:
        headers |= {settings.header: secret} if settings.header else {"Authorization": f"Bearer {secret}"}
    if isinstance(settings.paging, Etag) and "etag" in position:
        headers["If-None-Match"] = position["etag"]
    return headers


def _fact(settings: PollSettings, place: int, item: Any, raw: bytes) -> PulledFact:
    type = settings.type
    if settings.type_at is not None:
        type = type_of(find(item, settings.type_at))
    return PulledFact(external_id=_id(settings, place, item), type=type, body=raw)


def _id(settings: PollSettings, place: int, item: Any) -> str:
    if settings.id is None:
        # Whatever the order of its fields and the spaces between them; a fraction counts with every digit.
        plain = json.dumps(item, sort_keys=True, separators=(",", ":"), default=lambda exact: {"fraction": str(exact)})
        return hashlib.sha256(plain.encode()).hexdigest()
    id = find(item, settings.id)
    if type(id) is int:
        id = str(id)
    if not isinstance(id, str) or not id or len(id) > LONGEST_ID or not id.isprintable():
        raise PullFailed(
            f"The item at {settings.items or ''}/{place} has no id at {settings.id}: it must be a text of 1 to "
            f"{LONGEST_ID} printable characters, or a whole number. Nothing of this answer was stored."
        )
    return id


def _next_cursor(paging: Cursor, answer: Any) -> str | None:
    cursor = find(answer, paging.next)
    if type(cursor) is int:
        return str(cursor)
    if cursor is None or cursor == "":
        return None
    if not isinstance(cursor, str) or len(cursor) > LONGEST_CURSOR or not cursor.isprintable():
        raise PullFailed(f"What the answer has at {paging.next} is not a cursor.")
    return cursor


async def _by_cursor(
    claim: Claim, paging: Cursor, facts: list[PulledFact], next_cursor: str | None, position: Position
) -> Step:
    """Ends at the last page, and newest first also at one that holds nothing new; a cursor that stays is the end."""
    ended = next_cursor is None or next_cursor == position.get("cursor")
    if not paging.newest_first:
        return Step(facts=facts, position=position if ended else {"cursor": next_cursor}, more=not ended)
    # Nothing new on a page means nothing new behind it only if all that is behind it was read once.
    complete = position.get("complete", False)
    if ended or (complete and not await _any_new(claim.source_id, facts)):
        return Step(facts=facts, position={"complete": True}, more=False)
    return Step(facts=facts, position={"cursor": next_cursor, "complete": complete}, more=True)


async def _any_new(source_id: UUID, facts: list[PulledFact]) -> bool:
    ids = {fact.external_id for fact in facts}
    known = await run_sql("SELECT id FROM signal WHERE source = {} AND external_id = ANY({})", source_id, list(ids))
    return len(known) < len(ids)


def _by_since(paging: Since, facts: list[PulledFact], last: Any, position: Position) -> Step:
    """Goes on while the value moves. An API that gives the item at the value again costs nothing but its bytes."""
    if not facts:
        return Step(facts=[], position=position, more=False)
    value = find(last, paging.value)
    since = value if isinstance(value, str) else str(value) if type(value) is int else ""
    if not 0 < len(since) <= LONGEST_CURSOR or not since.isprintable():
        raise PullFailed(f"The last item of the answer has no value at {paging.value} to go on from.")
    return Step(facts=facts, position={"since": since}, more=since != position.get("since"))


def _etag(settings: PollSettings, answer: Answer) -> Position:
    useful = isinstance(settings.paging, Etag) and answer.etag and len(answer.etag) <= LONGEST_CURSOR
    return {"etag": answer.etag} if useful else {}


POLL = PullKind(
    name="poll",
    label="JSON API",
    settings_type=PollSettings,
    check_secret=check_secret,
    check=check,
    first_position=first_position,
    keeps_position=keeps_position,
    describe=describe,
    fetch=fetch,
)
