"""Tells an open page what changes, as server-sent events.

An event is a hint: its name is `live:` and a topic. The page then asks for its own pieces anew, by the addresses it was
made from, so that nothing is shown that a whole page would not show, and a hint too many does no harm. That none is too
few is settled by positions:

- A page carries the position (`since`) that was taken before anything of it was read.
- Events end with the position up to where this process has heard. A browser that comes back sends it as
  `Last-Event-ID`, and is told of each topic that changed after it; of every topic where this process cannot know.
- Events that belong together go out together, and only the last of them has an id: a connection that is cut between
  them skips none.

The first hint is sent at once, the next one at the earliest half a second later. The stream ends within 15 seconds of
the session or the membership, and at once when the process is to stop: the page then connects to the next one. An open
stream keeps no session alive.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from litestar import MediaType, Request, Response, get
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery
from litestar.response import Stream
from litestar.response.sse import ServerSentEventMessage

from portal.accounts import queries as accounts
from portal.accounts import sessions
from portal.accounts.permissions import Permission
from portal.accounts.schemas import Actor, CurrentSession
from portal.db import notices
from portal.db.engine import is_unreachable
from portal.errors import Forbidden, InputInvalid, NotFound, PortalError, TooManyRequests, Unavailable
from portal.web.render import AnyRequest

TOPICS = {
    "signals": Permission.SIGNALS_READ,
    "rejected": Permission.SOURCES_READ,
    "source": Permission.SOURCES_READ,
    "batch": Permission.SIGNALS_READ,
    "rule": Permission.RULES_READ,
    "policy": Permission.POLICIES_READ,
    "action": Permission.ACTIONS_READ,
    "transaction": Permission.TRANSACTIONS_READ,
    "contract": Permission.CONTRACTS_READ,
    "signer": Permission.SIGNERS_READ,
    "lane": Permission.TRANSACTIONS_READ,
    "pause": Permission.PAUSES_READ,
    "webhook": Permission.WEBHOOKS_READ,
}
"""What a page may ask to be told of, and what one must be allowed to read for it."""
PAUSE_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
"""How long a stream is silent at most, and how often it is checked that its reader still belongs here."""
RETRY_MILLISECONDS = 1000
STREAMS_OF_A_SESSION = 4
"""Windows side by side; hidden pages close theirs. Over HTTP/1.1 a browser has six connections: some must be left."""

_streams: Counter[UUID] = Counter()  # by session


def answer_quietly(_request: Request[Any, Any, Any], error: PortalError) -> Response[str]:
    """Without the alert that other pieces of a page get: without this stream the page asks by itself, less often."""
    headers = {"retry-after": str(error.retry_after_seconds)} if error.retry_after_seconds else {}
    return Response(error.detail, status_code=error.status, media_type=MediaType.TEXT, headers=headers)


@get(
    "/live",
    opt={"permission": Permission.ACTIONS_READ},
    exception_handlers=dict.fromkeys((Forbidden, InputInvalid, NotFound, TooManyRequests, Unavailable), answer_quietly),
)
async def tell_changes(
    request: AnyRequest,
    *,
    actor: NamedDependency[Actor],
    session: NamedDependency[CurrentSession | None],
    session_token: NamedDependency[str | None],
    slug: FromPath[str],
    topics: FromQuery[str] = "",
    since: FromQuery[str | None] = None,
) -> Stream:
    """The stream of hints about `topics` (separated by commas) for a person's page of this organisation."""
    wanted = frozenset(topics.split(","))
    if not wanted <= TOPICS.keys():
        raise InputInvalid.at("/topics", f"Name one or more of {', '.join(TOPICS)}, separated by commas.")
    for topic in sorted(wanted):
        actor.require(TOPICS[topic])
    if session is None or session_token is None:
        raise NotFound("There is no such page.")
    if _streams[session.session_id] >= STREAMS_OF_A_SESSION:
        raise TooManyRequests("As many pages as may be are live already; this one asks by itself.")
    notices.require_listener()
    since = request.headers.get("last-event-id") or since
    reader = Reader(actor, session, session_token, slug, wanted)
    return Stream(reader.read(since), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


class Reader:
    """One open stream: whose it is, and what it may go on to tell."""

    def __init__(self, actor: Actor, session: CurrentSession, token: str, slug: str, topics: frozenset[str]) -> None:
        self.organization_id = actor.organization_id
        self.session_id = session.session_id
        self.token = token
        self.slug = slug
        self.topics = topics

    async def read(self, since: str | None) -> AsyncIterator[bytes]:
        """The bytes of the stream, until it is over."""
        with _counted(self.session_id), notices.subscribe(self.organization_id, self.topics, since=since) as subscribed:
            changed, position = await subscribed.wait(0)
            yield _encoded(["connected", *changed], position, retry=RETRY_MILLISECONDS)
            check_at = time.monotonic() + HEARTBEAT_SECONDS
            while not subscribed.over:
                changed, position = await subscribed.wait(check_at - time.monotonic())
                if time.monotonic() >= check_at:
                    if not await self._belongs_here():
                        return
                    check_at = time.monotonic() + HEARTBEAT_SECONDS
                yield _encoded(changed, position) if changed else b": still here\r\n\r\n"
                await asyncio.sleep(PAUSE_SECONDS)

    async def _belongs_here(self) -> bool:
        try:
            session = await sessions.find_session(self.token, used=False)
            if session is None or not session.complete:
                return False
            actor = await accounts.get_actor(session.person_id, self.slug)
        except NotFound:
            return False
        except Exception as error:
            if is_unreachable(error):
                return True  # nobody can know just now, and nothing is read without the database either
            raise
        return all(TOPICS[topic] in actor.permissions for topic in self.topics)


@contextmanager
def _counted(session_id: UUID) -> Iterator[None]:
    _streams[session_id] += 1
    try:
        yield
    finally:
        _streams[session_id] -= 1
        if not _streams[session_id]:
            del _streams[session_id]


def _encoded(names: list[str], position: str, *, retry: int | None = None) -> bytes:
    """Events as in the HTML standard, 9.2.5; `position` is the id of the last one."""
    last = len(names) - 1
    return b"".join(
        ServerSentEventMessage(
            data=name, event=f"live:{name}", id=position if place == last else None, retry=None if place else retry
        ).encode()
        for place, name in enumerate(names)
    )


handlers = [tell_changes]
