"""Every route says who may use it, and every operation of the API says what it is for."""

from typing import Any

import pytest
from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.routes import ASGIRoute, HTTPRoute

from portal.accounts.permissions import SCOPES, Permission
from portal.app import create_app

METHODS = ("get", "post", "put", "delete")


@pytest.fixture(scope="module")
def built() -> Litestar:
    return create_app()


def handlers(app: Litestar) -> list[tuple[str, HTTPRouteHandler]]:
    return [
        (route.path, handler)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if handler.http_methods != {"OPTIONS"}
    ]


def operations(app: Litestar) -> list[tuple[str, str, dict[str, Any]]]:
    paths: dict[str, Any] = app.openapi_schema.to_schema()["paths"]
    return [(method, path, item[method]) for path, item in paths.items() for method in METHODS if method in item]


def test_every_route_declares_a_permission(built: Litestar) -> None:
    assert len(handlers(built)) > 60
    undeclared = [
        path for path, handler in handlers(built) if not isinstance(handler.opt.get("permission"), Permission)
    ]
    assert undeclared == []
    mounted = [route.path for route in built.routes if isinstance(route, ASGIRoute)]
    assert mounted == [], "what is mounted has no permission and no guard"


def test_only_public_routes_go_without_authentication(built: Litestar) -> None:
    for path, handler in handlers(built):
        if handler.opt.get("exclude_from_auth"):
            assert handler.opt["permission"] is Permission.PUBLIC, path


def test_nothing_is_changed_by_reading(built: Litestar) -> None:
    for path, handler in handlers(built):
        if handler.http_methods & {"GET", "HEAD"}:
            assert not handler.http_methods & {"POST", "PUT", "DELETE"}, path
            assert not str(handler.opt["permission"]).endswith(":write") or not path.startswith("/api/"), path


def test_approving_is_for_people(built: Litestar) -> None:
    deciding = {path for path, handler in handlers(built) if handler.opt["permission"] is Permission.ACTIONS_APPROVE}
    assert any(path.endswith("/approvals") for path in deciding)
    assert Permission.ACTIONS_APPROVE not in SCOPES


def test_every_operation_of_the_api_is_described(built: Litestar) -> None:
    found = operations(built)
    assert len(found) > 45
    known = {tag["name"] for tag in built.openapi_schema.to_schema()["tags"]}
    for method, path, operation in found:
        assert path.startswith("/api/v1/"), path
        assert len(operation.get("summary", "")) > 5, (method, path)
        assert len(operation["tags"]) == 1, (method, path)
        assert set(operation["tags"]) <= known, (method, path)
        assert {"401", "403", "503"} <= operation["responses"].keys(), (method, path)


def test_every_post_takes_a_key_and_every_change_a_version(built: Litestar) -> None:
    for method, path, operation in operations(built):
        taken = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "header"}
        if method == "post" and not path.endswith(("/sessions", "/sources/{source_id}/signals")):
            assert "Idempotency-Key" in taken, path
        if method in ("put", "delete") and not path.endswith("/sessions/current"):
            assert "If-Match" in taken, (method, path)


def test_operations_have_ids_of_their_own(built: Litestar) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(built)]
    assert len(ids) == len(set(ids))
