"""ETag and If-Match: nobody changes or deletes what somebody else has changed meanwhile."""

import hashlib
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Response
from litestar.params import HeaderParameter

from portal.errors import PortalError, PreconditionFailed

T = TypeVar("T")
IfMatch = Annotated[str | None, HeaderParameter(name="If-Match", description="The ETag of what was read; needed.")]


class VersionMissing(PortalError):
    status = 428
    title = "Say which version you have seen"


def etag_of(version: Any) -> str:
    """A strong ETag over whatever tells one version of a resource from the next."""
    return f'"{hashlib.sha256(msgspec.json.encode(version)).hexdigest()[:32]}"'


def with_etag(view: T, version: Any) -> Response[T]:
    """`view` as the answer, with the ETag that a PUT or DELETE of it must send back."""
    return Response(view, headers={"ETag": etag_of(version)})


def require_match(given: str | None, version: Any) -> None:
    """Raise `VersionMissing` if there is none, `PreconditionFailed` if it names another version (`*` names any)."""
    if given is None:
        raise VersionMissing("Read it first, and send its ETag in the If-Match header.")
    candidates = {candidate.strip() for candidate in given.split(",")}
    if "*" not in candidates and etag_of(version) not in candidates:
        raise PreconditionFailed("Somebody changed it since you read it. Read it again, and send the new ETag.")
