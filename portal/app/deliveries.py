"""The short way of a delivery: the one route with so many requests that what Litestar does around a handler counts.

Its router, middleware, injection and serialisation cost more than all that is done for a delivery. What they do for
other routes is done here in the same words: the correlation id, the limit on headers, the security headers, metrics
and problem+json. The route itself is Litestar's all the same: documented, with its permission, and answering alike.
"""

import re
import time
from typing import Any

import msgspec
from litestar import Litestar
from litestar.types import HTTPScope, Receive, Send

from portal.api.intake import take_delivery
from portal.api.problem import MEDIA_TYPE, make_problem
from portal.app.edge import NO_STORE, answer_head, check_headers, correlate, our_headers
from portal.app.errors import account_for
from portal.errors import NotSignedIn
from portal.ops.metrics import observe_request

ROUTE = "/api/v1/sources/{source_id}/signals"
ADDRESS = re.compile(r"/api/v1/sources/([^/]*)/signals")
encode = msgspec.json.Encoder().encode


class Portal(Litestar):
    """The application: Litestar, but for deliveries and HEAD."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and (address := ADDRESS.fullmatch(scope["path"])):
            await answer_delivery(scope, receive, send, address[1])
        elif scope["type"] == "http" and scope["method"] == "HEAD":
            await answer_head(super().__call__, scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


async def answer_delivery(scope: HTTPScope, receive: Receive, send: Send, source_id: str) -> None:
    """Answer as the route does."""
    started = time.perf_counter()
    correlation = correlate(scope)
    kind, more = b"application/json", dict[str, str]()
    try:
        check_headers(scope)
        status, answer = await take_delivery(scope, receive, source_id)
        body = encode(answer)
    except Exception as exception:
        error, more = account_for(exception, scope["path"])
        status, kind = error.status, MEDIA_TYPE.encode()
        body = encode(make_problem(error, correlation, instance=scope["path"]))
        if isinstance(error, NotSignedIn):
            more["www-authenticate"] = "Bearer"
    headers = our_headers(correlation)
    headers += [(b"content-type", kind), (b"content-length", str(len(body)).encode()), NO_STORE]
    headers += [(name.encode(), value.encode()) for name, value in more.items()]
    observe_request("POST", ROUTE, status, time.perf_counter() - started)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
