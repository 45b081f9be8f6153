"""Where external systems deliver signals. No key: the signature over the raw bytes is the proof."""

from typing import Annotated, Any
from uuid import UUID

from litestar import Request, Response, Router, post
from litestar.params import PathParameter

from portal.accounts.permissions import Permission
from portal.api.operations import problems
from portal.api.problem import MediaTypeUnsupported
from portal.api.requests import read_body
from portal.errors import InputInvalid
from portal.signals.intake import find_body_cap
from portal.signals.schemas import DEFAULT_BODY_BYTES, Receipt
from portal.signals.schemes import QUERY
from portal.signals.schemes.slack import challenge_in
from portal.signals.service import receive

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
    responses=problems(408, 409, 413, 415),
)
async def deliver_signal(request: Request[Any, Any, Any], source_id: SourceAddress) -> Receipt:
    _check_framing(request)
    length = request.headers.get("content-length", "")
    # Only a body that may be larger than usual is worth another query before it is read.
    usual = length.isdecimal() and int(length[:20]) <= DEFAULT_BODY_BYTES
    cap_bytes = DEFAULT_BODY_BYTES if usual else await find_body_cap(_id_of(source_id))
    body = await read_body(request.receive, length, cap_bytes=cap_bytes)
    headers = list(request.scope["headers"])
    if query := request.scope["query_string"]:
        headers.append((QUERY, query))
    receipt = await receive(source_id, headers, body, request.client.host if request.client else "")
    challenge = challenge_in(headers, body)
    if challenge is not None:  # Slack takes nothing but 200 for it
        return Response({"challenge": challenge}, status_code=200)  # type: ignore[return-value]
    return receipt


def _id_of(address: str) -> UUID:
    """What is no id gets the answers of a source that does not exist."""
    try:
        return UUID(address)
    except ValueError:
        return UUID(int=0)


def _check_framing(request: Request[Any, Any, Any]) -> None:
    """Refuse what could be read as another body than the one that was signed (RFC 9112, section 6.3)."""
    for header, plain in (("content-encoding", "identity"), ("transfer-encoding", "chunked")):
        coding = ",".join(request.headers.getall(header, [])).strip().lower()
        if coding not in ("", plain):
            raise MediaTypeUnsupported(f"The body is encoded as {coding[:40]}; send it as it was signed, uncompressed.")
    if "transfer-encoding" in request.headers and "content-length" in request.headers:
        raise InputInvalid("The request has both Content-Length and Transfer-Encoding; send one of them.")


intake_router = Router("/", route_handlers=[deliver_signal], tags=["Signals"])
