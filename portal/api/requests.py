"""How the API reads a request: body capped while it is read, in time, strictly typed, each error naming its place."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec
from litestar import Request
from litestar.types import Receive
from msgspec.inspect import type_info

from portal.api.problem import BodyTooLarge, MediaTypeUnsupported, field_of
from portal.errors import FieldError, InputInvalid, PortalError

BODY_CAP_BYTES = 1024 * 1024
BODY_SECONDS = 15.0
MAX_EXACT_INTEGER = 2**53
"""JSON numbers beyond it are rounded by many programs on the way, so none is taken (RFC 8259, section 6)."""


class BodyTooSlow(PortalError):
    status = 408
    title = "The body took too long to arrive"


class BodyIncomplete(InputInvalid):
    """The caller went away before the whole body arrived; nobody reads the answer."""


def take_no_room(_size: int) -> None:
    """For a body that is small enough not to be counted."""


async def read_body(
    receive: Receive,
    length: str,
    *,
    cap_bytes: int,
    seconds: float = BODY_SECONDS,
    take_room: Callable[[int], None] = take_no_room,
) -> bytes:
    """The whole body, refused as soon as it announces or turns out to be more than `cap_bytes`.

    `length` is the Content-Length, empty if there is none. `take_room` is told the size of each piece and may raise.
    Raises `BodyTooLarge`, `BodyTooSlow` or `BodyIncomplete`.
    """
    too_large = BodyTooLarge(f"The body may have at most {cap_bytes} bytes. Nothing was stored.")
    if length.isdecimal() and int(length[:20]) > cap_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise BodyIncomplete("The connection ended before the whole body had arrived. Nothing was stored.")
                take_room(len(message["body"]))
                body += message["body"]
                if len(body) > cap_bytes:
                    raise too_large
                if not message["more_body"]:
                    return bytes(body)
    except TimeoutError:
        raise BodyTooSlow(f"The body did not arrive within {seconds:g} seconds. Nothing was stored.") from None


class ApiRequest(Request[Any, Any, Any]):
    """A request whose `data` is decoded strictly into the type that the handler declares."""

    async def stream(self) -> AsyncGenerator[bytes, None]:
        yield await read_body(self.receive, self.headers.get("content-length", ""), cap_bytes=BODY_CAP_BYTES)

    async def json(self) -> Any:
        kind = self.content_type[0].lower()
        if kind and kind != "application/json" and not kind.endswith("+json"):
            raise MediaTypeUnsupported("Send the body as JSON, with Content-Type: application/json.")
        return decode_json(await self.body(), self.route_handler.parsed_fn_signature.parameters["data"].annotation)


def single_header(request: Request[Any, Any, Any], name: str) -> str | None:
    """The value of a header that may be given once. Raises `InputInvalid` if it is given twice."""
    values = request.headers.getall(name, [])
    if len(values) > 1:
        raise InputInvalid(f"The header {name} was sent {len(values)} times; send it once.")
    return values[0] if values else None


def decode_json(body: bytes, expected: Any) -> Any:
    """`body` as the msgspec Struct `expected`. Raises `InputInvalid` that names every wrong top-level field."""
    try:
        raw = msgspec.json.decode(body)
    except UnicodeDecodeError as error:
        raise InputInvalid(f"The body is not valid UTF-8, from byte {error.start} on.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputInvalid(f"The body is not valid JSON: {error}.") from None
    fields = [*unfit_values(raw), *wrong_fields(raw, expected)]
    if fields:
        raise InputInvalid(fields[0].message, fields=fields)
    return msgspec.json.decode(body, type=expected)


def wrong_fields(raw: Any, expected: Any) -> list[FieldError]:
    """What keeps `raw` from being an `expected`: all unknown and missing fields, and the first error within each."""
    try:
        msgspec.convert(raw, expected)
    except msgspec.ValidationError as error:
        if not isinstance(raw, dict):
            return [field_of(error)]
        first = field_of(error)
    else:
        return []
    info = type_info(expected)
    if not isinstance(info, msgspec.inspect.StructType):
        return [first]
    known = {field.encode_name: field for field in info.fields}
    wrong = [FieldError(f"/{name}", f"There is no field {name!r} here.") for name in raw if name not in known]
    hints = msgspec.structs.fields(expected)
    for field in hints:
        if field.encode_name not in raw:
            if field.required:
                wrong.append(FieldError(f"/{field.encode_name}", f"The field {field.encode_name!r} is missing."))
            continue
        try:
            msgspec.convert(raw[field.encode_name], field.type)
        except msgspec.ValidationError as error:
            wrong.append(field_of(error, under=f"/{field.encode_name}"))
    return wrong or [first]


def unfit_values(document: Any) -> list[FieldError]:
    """Everything in a JSON document that is well-formed and still cannot be kept as it is."""
    wrong, waiting = [], [("", document)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{path}/{name}", inner) for name, inner in value.items()]
            if any("\0" in name for name in value):
                wrong.append(FieldError(path, "The name of a field holds the character U+0000."))
        elif isinstance(value, list):
            waiting += [(f"{path}/{index}", inner) for index, inner in enumerate(value)]
        elif isinstance(value, str) and "\0" in value:
            wrong.append(FieldError(path, "This holds the character U+0000, which no text here can contain."))
        elif isinstance(value, int | float) and abs(value) > MAX_EXACT_INTEGER:
            wrong.append(FieldError(path, "JSON cannot carry this number exactly; send it as a decimal string."))
    return wrong
