"""The web process: uvicorn around the application, on a socket that is ours or was handed to us."""

import asyncio
import gc
import os
import signal
import socket
import sys
from types import FrameType

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from portal.db import notices
from portal.errors import SettingInvalid
from portal.settings import Settings

MAX_HEAD_BYTES = 64 * 1024
"""Of a request line and headers. The application refuses less than this politely; here it is about our memory."""
LINGER_SECONDS = 1.0
HEAD_SECONDS = 15.0
"""How long a connection may take to bring a whole head: uvicorn itself would wait for ever, for any number of them."""
GRACE_SECONDS = 10
LISTENER_VARIABLE = "PORTAL_LISTENER"
"""Names the open file of a socket that `portal up` listens on, so that callers wait while this process restarts."""


class PortTaken(SettingInvalid):
    title = "The port is taken"


class BoundedHttp(HttpToolsProtocol):
    """HTTP/1.1 that bounds a request's head: beyond `MAX_HEAD_BYTES` it answers 431, after `HEAD_SECONDS` it closes.

    As much may stand between and behind the chunks of a body; trailers are read past and never become headers (RFC
    9110, section 6.5.1): the parser keeps each of them whole, and whoever looked at the headers has looked already.
    """

    _bare_bytes = 0
    """That came since the parser last began or ended a head, or had a piece of a body."""
    _got_on = False
    _in_head = False
    _refused = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._got_on = False
        super().data_received(data)
        # Where the parser got on in this piece, nobody knows how much of it is left over.
        self._bare_bytes = 0 if self._got_on else self._bare_bytes + len(data)
        if self._bare_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse()
        if self._in_head or self.cycle is None or self.cycle.response_complete:
            self._await_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._got_on = True

    def on_headers_complete(self) -> None:
        self._in_head, self._got_on = False, True
        self._cancel_head_timer()
        hosts = [name for name, _ in self.headers].count(b"host")
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise ValueError("RFC 9112, section 3.2, asks for one Host")  # the parser gives up, and 400 is answered
        super().on_headers_complete()
        self.headers = []

    def on_body(self, body: bytes) -> None:
        self._got_on = True
        super().on_body(body)

    def _await_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _cancel_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self) -> None:
        self._refused = True
        if not self._in_head:
            self.transport.close()  # the application may be about to answer
            return
        body = msgspec.json.encode(
            {
                "type": "about:blank",
                "title": "The headers are too large",
                "status": 431,
                "code": "headers_too_large",
                "detail": f"The request line and all headers may have {MAX_HEAD_BYTES} bytes; send less.",
            }
        )
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
            b"connection: close\r\ncontent-length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )
        # Closing while the sender still sends would reset the connection before it has read the answer.
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """Uvicorn that ends streams when it is to stop, instead of waiting its whole grace for them."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notices.close_listeners()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises `PortTaken` if somebody else listens there, `SettingInvalid` for an unusable address."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise SettingInvalid(f"PORTAL_HOST: {host!r} is not an address of this machine: {error.strerror}.") from error
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except PermissionError as error:
        listener.close()
        raise SettingInvalid(f"PORTAL_PORT: port {port} needs more rights; take one above 1023.") from error
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"Port {port} on {host} is taken or not ours ({error.strerror}); stop what listens there, or give another "
            "with --port."
        ) from error
    return listener


def serve(settings: Settings) -> None:
    """Serve the application until SIGTERM or SIGINT; requests under way get 10 seconds to end."""
    from portal.app import create_app  # after the settings are checked

    given = os.environ.pop(LISTENER_VARIABLE, None)
    listener = socket.socket(fileno=int(given)) if given else listen(settings.host, settings.port)
    app = create_app()
    # What was made so far lives as long as the process: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=BoundedHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=GRACE_SECONDS,
        backlog=2048,
    )
    # Uvicorn repeats the signal once it has shut down; for us that is a good end, not a death.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_well)
    with listener:
        Server(config).run(sockets=[listener])


def _end_well(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)
