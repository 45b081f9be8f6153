"""The web process: pages, JSON API and health in one Litestar application."""

import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from litestar import Litestar, Request, Response
from litestar.datastructures import CacheControlHeader
from litestar.di import Provide
from litestar.exceptions import InternalServerException
from litestar.static_files import create_static_files_router
from litestar.types import ExceptionHandlersMap

from portal.accounts.permissions import Permission
from portal.api.router import api_router, openapi_config
from portal.app.authentication import (
    AuthenticationMiddleware,
    check_permission,
    provide_actor,
    provide_session,
    provide_session_token,
    provide_visitor,
)
from portal.app.deliveries import Portal
from portal.app.edge import EdgeMiddleware, add_headers
from portal.app.errors import answer_exception
from portal.chain.rpc import close_nodes
from portal.db import notices
from portal.db.engine import open_pool
from portal.errors import NotFound
from portal.jobs.queue import make_queue, open_doorbell
from portal.logging import get_logger
from portal.ops.metrics import MetricsMiddleware
from portal.ops.router import ops_router
from portal.settings import ROOT, get_settings
from portal.signals.intake import flush
from portal.web.router import web_router

log = get_logger(__name__)
NODE_MODULES = ROOT / "node_modules"
VENDOR = {"htmx": "htmx.org/dist", "tabler": "@tabler/core/dist"}
"""Browser assets served under `/static/vendor/<name>`, from the npm packages that `make install` installed."""


def answer_no_file(request: Request[Any, Any, Any], exception: Exception) -> Response[Any]:
    """404 for a name that no file can have, of which the file system complains instead of finding nothing."""
    reason = exception.__cause__
    impossible = isinstance(reason, OSError) and reason.errno in (errno.ENAMETOOLONG, errno.ENOTDIR)
    missing = impossible or isinstance(exception, ValueError)
    return answer_exception(request, NotFound("There is no such file.") if missing else exception)


NO_FILE: ExceptionHandlersMap = {ValueError: answer_no_file, InternalServerException: answer_no_file}


@asynccontextmanager
async def open_parts(_app: Litestar) -> AsyncIterator[None]:
    """Hold the database pool, the doorbell and the ear for changes open while the process serves."""
    queue = make_queue()
    async with open_pool():
        try:
            await queue.connect()
        except Exception as error:
            log.warning("queue.unreachable", error=type(error).__name__)
        async with open_doorbell(queue), notices.open_listener():
            yield
        await close_nodes()
        await flush.settle()
        await notices.settle()
        await queue.disconnect()


def create_app() -> Litestar:
    """The application. Raises `SettingInvalid` where a setting that the web process needs is missing."""
    get_settings().require("database_url", "secret_key")
    static = [
        create_static_files_router(
            path=f"/static/vendor/{name}",
            directories=[NODE_MODULES / folder],
            cache_control=CacheControlHeader(public=True, max_age=86_400),
            opt={"permission": Permission.PUBLIC, "exclude_from_auth": True},
            exception_handlers=NO_FILE,
            name=f"vendor-{name}",
        )
        for name, folder in VENDOR.items()
    ]
    static.append(
        create_static_files_router(
            path="/static",
            directories=[ROOT / "static"],
            cache_control=CacheControlHeader(public=True, max_age=300),
            opt={"permission": Permission.PUBLIC, "exclude_from_auth": True},
            exception_handlers=NO_FILE,
        )
    )
    return Portal(
        route_handlers=[api_router, web_router, ops_router, *static],
        guards=[check_permission],
        middleware=[MetricsMiddleware(), EdgeMiddleware(), AuthenticationMiddleware],
        dependencies={
            "actor": Provide(provide_actor, sync_to_thread=False),
            "visitor": Provide(provide_visitor),
            "session": Provide(provide_session, sync_to_thread=False),
            "session_token": Provide(provide_session_token, sync_to_thread=False),
        },
        before_send=[add_headers],
        exception_handlers={Exception: answer_exception},
        lifespan=[open_parts],
        openapi_config=openapi_config,
        logging_config=None,  # the process has configured logging; Litestar's would replace it
        request_max_body_size=1024 * 1024,
    )
