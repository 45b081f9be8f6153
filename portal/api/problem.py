"""Errors as RFC 9457 `application/problem+json`: the one shape of every refusal of the API."""

import re
from typing import Any

import msgspec
from litestar import Response
from litestar.exceptions import HTTPException

from portal.errors import (
    FieldError,
    Forbidden,
    InputInvalid,
    NotFound,
    NotSignedIn,
    PortalError,
    TooManyRequests,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"

NAMES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "object": "an object",
    "array": "a list",
    "uuid": "a UUID",
    "datetime": "a time such as 2026-05-03T09:30:00Z",
}


class BodyTooLarge(PortalError):
    status = 413
    title = "The body is too large"


class MediaTypeUnsupported(PortalError):
    status = 415
    title = "This kind of body is not understood"


class MethodNotAllowed(PortalError):
    status = 405
    title = "This address does not answer to this method"


REFUSALS: dict[int, tuple[type[PortalError], str | None]] = {
    401: (NotSignedIn, None),
    403: (Forbidden, None),
    404: (NotFound, "There is nothing at this address. The operations of the API are listed at /api/docs."),
    405: (MethodNotAllowed, "Use one of the methods that /api/docs lists for this address."),
    413: (BodyTooLarge, "The body is larger than this operation accepts. Nothing was stored."),
    415: (MediaTypeUnsupported, None),
    429: (TooManyRequests, None),
    503: (Unavailable, None),
}


class ProblemField(msgspec.Struct, frozen=True):
    """One wrong input: `path` is a JSON pointer into the body, or `/name` of a query parameter."""

    path: str
    message: str


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was refused (RFC 9457)."""

    type: str
    """Where the code is explained."""
    title: str
    status: int
    detail: str
    """What is wrong, where, and what to do."""
    instance: str
    """The path that was asked."""
    code: str
    """For programs; never changes its meaning."""
    correlation_id: str
    """Also in the `X-Correlation-Id` header; finds everything we logged."""
    errors: list[ProblemField] = []


def make_problem(error: PortalError, correlation_id: str, *, instance: str) -> Problem:
    """What an answer says that refuses a request."""
    return Problem(
        type=f"/api/docs#problem-{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        instance=instance,
        code=error.code,
        correlation_id=correlation_id,
        errors=[ProblemField(field.path, field.message) for field in error.fields],
    )


def problem_response(error: PortalError, correlation_id: str, *, instance: str) -> Response[Problem]:
    """The answer that says why a request was refused."""
    problem = make_problem(error, correlation_id, instance=instance)
    return Response(problem, status_code=error.status, media_type=MEDIA_TYPE)


def from_exception(exception: HTTPException) -> PortalError:
    """What the framework refused before a handler of ours ran, as one of our errors."""
    if fields := fields_of(exception.extra):
        return InputInvalid(fields[0].message, fields=fields)
    kind, detail = REFUSALS.get(exception.status_code, (InputInvalid, None))
    return kind(detail or str(exception.detail))


def fields_of(extra: Any) -> list[FieldError]:
    """The wrong inputs that a framework's `ValidationException` names in its `extra`."""
    if not isinstance(extra, list):
        return []
    fields = []
    for item in extra:
        key = str(item.get("key", "")) if isinstance(item, dict) else ""
        if key == "data":
            fields.append(FieldError("", "This operation needs a JSON body."))
        elif isinstance(item, dict):
            pointer = "/" + key.replace(".", "/") if key else ""
            fields.append(FieldError(pointer, plain_message(str(item.get("message", "This is not valid.")))))
    return fields


def field_of(error: msgspec.ValidationError, *, under: str = "") -> FieldError:
    """The one wrong input that msgspec found, its path as a JSON pointer below `under`."""
    message, _, place = str(error).partition(" - at ")
    pointer = under + pointer_of(place.strip("`"))
    if match := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.S):
        return FieldError(f"{pointer}/{match[1]}", f"There is no field {match[1]!r} here.")
    if match := re.fullmatch(r"Object missing required field `(.*)`", message, re.S):
        return FieldError(f"{pointer}/{match[1]}", f"The field {match[1]!r} is missing.")
    return FieldError(pointer, plain_message(message))


def pointer_of(place: str) -> str:
    """A path of msgspec (`$.steps[0].name`) as a JSON pointer (`/steps/0/name`)."""
    steps = re.findall(r"\.([^.\[]+)|\[(\d+)\]", place.removeprefix("key in "))
    return "".join(f"/{name or index}" for name, index in steps)


def plain_message(message: str) -> str:
    """What msgspec says of one value, as a sentence for whoever sent it."""
    match = re.fullmatch(r"Expected `([^`]+)`, got `([^`]+)`", message)
    if not match:
        return message.replace("`", "'").rstrip(".") + "."
    expected = " or ".join(NAMES.get(name.strip(), name.strip()) for name in match[1].split("|"))
    sentence = f"This must be {expected}, not {NAMES.get(match[2], match[2])}."
    if "str" in match[1] and match[2] in ("int", "float"):
        sentence += " Send it as a decimal string."
    return sentence
