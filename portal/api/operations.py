"""Answers and refusals that every resource shares."""

from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import litestar
from litestar import Response
from litestar.datastructures import ResponseHeader
from litestar.di import NamedDependency
from litestar.enums import RequestEncodingType
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Example, OpenAPIType, Operation, Parameter, Schema
from litestar.params import Body

from portal.accounts.schemas import Actor
from portal.api.problem import MEDIA_TYPE, Problem
from portal.api.versions import etag_of

T = TypeVar("T")
Acting = NamedDependency[Actor]
"""The member or API key that sent the request, as the guard found it."""

EXAMPLE_ID = "0199c3a4-6f2e-7b1d-9c57-2f8e4a1b3c5d"


@dataclass
class KeyedOperation(Operation):
    """Says of a POST that it takes an Idempotency-Key, which `IdempotencyMiddleware` reads."""

    def __post_init__(self) -> None:
        key = Parameter(
            name="Idempotency-Key",
            param_in="header",
            schema=Schema(type=OpenAPIType.STRING, max_length=255),
            description="Of your choice; the same request with it is carried out once and answered alike for 24 hours.",
        )
        self.parameters = [*(self.parameters or []), key]


post = partial(litestar.post, operation_class=KeyedOperation)


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The refusals that an operation documents; 400, 401, 403 and 503 can come of any."""
    return {
        status: ResponseSpec(Problem, description=REASONS[status], media_type=MEDIA_TYPE, generate_examples=False)
        for status in sorted({400, 401, 403, 503, *statuses})
    }


REASONS = {
    400: "Some of the input is not valid; `errors` names each place.",
    401: "No valid API key or session.",
    403: "The key or person lacks the permission, or the one-time code is wrong.",
    404: "There is no such thing in this organisation.",
    408: "The body took too long to arrive.",
    409: "The state is not what the request assumes; `code` says which.",
    412: "It has changed since its ETag was read.",
    413: "The body is too large.",
    415: "The body is not of a kind that is understood.",
    422: "This Idempotency-Key was used for another request.",
    428: "The If-Match header is missing.",
    429: "Too many attempts; wait as long as Retry-After says.",
    503: "Nothing was changed; send the same again after the seconds in Retry-After.",
}

ETAG = [ResponseHeader(name="ETag", description="Send it as If-Match to change or delete.", documentation_only=True)]


def created(view: T, path: str, *, version: Any = None) -> Response[T]:
    """201 with the address of what was made, and its ETag where it has one."""
    headers = {"Location": f"/api/v1/{path}"}
    if version is not None:
        headers["ETag"] = etag_of(version)
    return Response(view, status_code=201, headers=headers)


def example(value: dict[str, Any]) -> Any:
    """The marker of a JSON body with an example, for `Annotated`."""
    return Body(media_type=RequestEncodingType.JSON, examples=[Example(value=value)])
