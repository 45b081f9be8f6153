"""Where external systems deliver signals. No key: the signature over the raw bytes is the proof."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

from litestar import Request, Response, Router, post
from litestar.params import PathParameter
from litestar.types import HTTPScope, Receive

from portal.accounts.permissions import Permission
from portal.api.operations import problems
from portal.api.problem import MediaTypeUnsupported
from portal.api.requests import BodyIncomplete, read_body, take_no_room
from portal.errors import InputInvalid, PortalError, Unavailable
from portal.signals.intake import service as intake
from portal.signals.schemas import DEFAULT_BODY_BYTES, Receipt
from portal.signals.schemes import QUERY, Headers
from portal.signals.schemes.slack import challenge_in

PLAIN_FRAMING = frozenset({b"content-length"})
FRAMING = PLAIN_FRAMING | {b"content-encoding", b"transfer-encoding", b"upgrade"}
MOST_LARGE_BYTES = 128 * 1024 * 1024
"""Of bodies that are larger than usual or do not say how large they are, in memory at the same time: five of the
largest. They do not take the place of usual ones."""
SourceAddress = Annotated[str, PathParameter(description="The source's id, as in the `url` that creating it returned.")]


@post(
    "/sources/{source_id:str}/signals",
    status_code=202,
    summary="Deliver a signal",
    description=(
        "For the external system, signed as the source's scheme says. 202 means stored for ever. The same delivery "
        "again is answered 202 with the same signal and `duplicate: true`; the same id with another body is 409. A "
        "wrong signature and an unknown source are the same 401. On 503 nothing was stored: send it again. Slack's "
        "`url_verification` is answered 200 with its challenge."
    ),
    opt={"permission": Permission.PUBLIC, "exclude_from_auth": True},
    security=[{}],
    responses=problems(408, 409, 413, 415, 422, 429),
)
async def deliver_signal(request: Request[Any, Any, Any], source_id: SourceAddress) -> Receipt:
    status, answer = await take_delivery(request.scope, request.receive, source_id)
    return answer if isinstance(answer, Receipt) else Response(answer, status_code=status)  # type: ignore[return-value]


async def take_delivery(scope: HTTPScope, receive: Receive, source_id: str) -> tuple[int, Receipt | dict[str, str]]:
    """Read a delivery's body and take it in; the status and content of the answer.

    Raises what `intake.receive` raises, and for what cannot be read `BodyTooLarge`, `BodyTooSlow`,
    `MediaTypeUnsupported` or `InputInvalid`, recorded with the source, too; `BodyIncomplete`.
    """
    headers, client = list(scope["headers"]), scope["client"]
    ip = client[0] if client else ""
    length = dict(headers).get(b"content-length", b"").decode("latin-1")
    if scope["query_string"]:
        headers.append((QUERY, scope["query_string"]))
    # Only a body that may be larger than usual is worth a query before it is read.
    usual = length.isdecimal() and int(length[:20]) <= DEFAULT_BODY_BYTES
    with nullcontext(take_no_room) if usual else _large.share() as take_room:
        try:
            _check_framing(headers)
            cap_bytes = DEFAULT_BODY_BYTES if usual else await intake.find_body_cap(intake.as_id(source_id))
            body = await read_body(receive, length, cap_bytes=cap_bytes, take_room=take_room)
        except (BodyIncomplete, Unavailable):
            raise
        except PortalError as error:
            announced = min(int(length[:20]), 2**62) if length.isdecimal() else 0
            await intake.refuse(intake.as_id(source_id), headers, error, body_bytes=announced, body=None, ip=ip)
            raise
        receipt = await intake.receive(source_id, headers, body, ip)
    challenge = challenge_in(headers, body)
    # Slack takes nothing but 200 for it.
    return (202, receipt) if challenge is None else (200, {"challenge": challenge})


class Room:
    """Memory for bodies that nobody has verified yet, shared by the deliveries of this process: strangers fill no more.

    It is taken piece by piece as a body arrives: what is only announced keeps nobody else out.
    """

    def __init__(self) -> None:
        self.taken = 0

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """What takes room for so many bytes, until the end; it raises `Unavailable` where there is none left."""
        mine = 0

        def take(size: int) -> None:
            nonlocal mine
            if self.taken + size > MOST_LARGE_BYTES:
                raise Unavailable(
                    "More large deliveries arrive than fit. Nothing was stored; send it again.", retry_after_seconds=1
                )
            mine += size
            self.taken += size

        try:
            yield take
        finally:
            self.taken -= mine


_large = Room()


def _check_framing(headers: Headers) -> None:
    """Refuse what could be read as another body than the one that was signed (RFC 9112, section 6.3)."""
    framing = FRAMING.intersection(dict(headers))
    if framing == PLAIN_FRAMING:
        return
    for header, plain in ((b"content-encoding", "identity"), (b"transfer-encoding", "chunked")):
        values = [value.decode("latin-1") for name, value in headers if name == header]
        coding = ",".join(values).strip().lower()
        if coding not in ("", plain):
            raise MediaTypeUnsupported(f"The body is encoded as {coding[:40]}; send it as it was signed, uncompressed.")
    if b"upgrade" in framing and b"upgrade" in dict(headers).get(b"connection", b"").lower():
        # The parser gives no body to such a request, so its signature could not be right (RFC 9110, section 7.8).
        raise InputInvalid("The request asks for another protocol (Upgrade). Send it as HTTP/1.1 without that.")
    if b"transfer-encoding" in framing and b"content-length" in framing:
        raise InputInvalid("The request has both Content-Length and Transfer-Encoding; send one of them.")


intake_router = Router("/", route_handlers=[deliver_signal], tags=["Signals"])
