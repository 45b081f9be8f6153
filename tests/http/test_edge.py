"""What every answer has and every request must bring: ids, headers, origin, permission."""

import re

import httpx
import pytest
from litestar import Litestar

from portal.accounts.invitations import find_invitation, invite_member
from portal.accounts.permissions import Role
from portal.accounts.sessions import COOKIE, csrf_token, sign_in
from tests.http.live import serving
from tests.http.test_access_matrix import Route, routes
from tests.http.test_hostile_input import say
from tests.people import Cast, Player

__all__ = ["routes"]


async def signed_in(http: httpx.AsyncClient, player: Player) -> str:
    """Give the client a complete session of `player`; its token."""
    token = (await sign_in(player.email, player.password, player.code(), ip="127.0.0.1", user_agent="test")).token
    http.headers["cookie"] = f"{COOKIE}={token}"
    return token


@pytest.mark.parametrize("path", ["/login", "/nowhere", "/api/v1/nowhere", "/health/live", "/static/portal.css"])
async def test_every_answer_has_a_correlation_id_and_the_security_headers(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path, headers={"X-Correlation-Id": "from-the-caller"})
    assert answer.headers["x-correlation-id"] == "from-the-caller"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"


HEADERS_OF_ONE_ANSWER = {"x-correlation-id", "set-cookie", "etag", "date", "content-length"}


async def test_head_is_answered_as_get_without_its_content(
    http: httpx.AsyncClient, routes: list[Route], cast: Cast
) -> None:
    """RFC 9110, section 9.3.2: every page, resource and file, refusals included."""
    await signed_in(http, cast.alice)
    paths = [route.path for route in routes if route.method == "GET" and set(route.names) <= {"slug"}]
    paths = [path.format(slug="acme") for path in paths if not path.endswith("/live")]
    assert len(paths) > 30
    others = ("/nowhere", "/api/v1/nowhere", "/health/ready", "/metrics", "/static/portal.css", "/static/no")
    for path in (*paths, *others):
        got, head = await http.get(path), await http.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        same = set(got.headers.items()) - {item for item in got.headers.items() if item[0] in HEADERS_OF_ONE_ANSWER}
        assert same <= set(head.headers.items()), path


async def test_head_of_a_stream_ends_and_leaves_the_connection_to_others(
    http: httpx.AsyncClient, app: Litestar, cast: Cast
) -> None:
    token = await signed_in(http, cast.alice)
    ask = f"HEAD /orgs/acme/live?topics=signals HTTP/1.1\r\nHost: x\r\nCookie: {COOKIE}={token}\r\n\r\n".encode()
    async with serving(app) as (_, url):
        answers = await say(
            int(url.rpartition(":")[2]), ask, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
    first, _, rest = answers.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert b"text/event-stream" in first
    assert rest.startswith(b"HTTP/1.1 200"), "nothing is between the head and the next answer"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "<script>", "é"])
async def test_a_correlation_id_that_is_no_plain_token_is_replaced(http: httpx.AsyncClient, sent: str) -> None:
    answer = await http.get("/health/live", headers={"X-Correlation-Id": sent.encode()})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-correlation-id"])


async def test_a_megabyte_of_headers_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/v1/sources", headers={"X-Long": "x" * 1_000_000})
    assert answer.status_code == 431
    assert answer.json()["code"] == "headers_too_large"


@pytest.mark.parametrize("path", ["/api/v1/sources", "/api/v1/actions"])
async def test_the_api_asks_a_stranger_to_sign_in(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(path)
    assert answer.status_code == 401
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["correlation_id"] == answer.headers["x-correlation-id"]


async def test_a_page_leads_a_stranger_to_the_login_and_back(http: httpx.AsyncClient, cast: Cast) -> None:
    answer = await http.get("/orgs/acme/inbox")
    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/login")
    assert "inbox" in answer.headers["location"]


async def test_a_form_from_another_site_changes_nothing(http: httpx.AsyncClient, cast: Cast) -> None:
    token = await signed_in(http, cast.alice)
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
    ):
        answer = await http.post("/logout", data={"csrf_token": csrf_token(token)}, headers=headers)
        assert answer.status_code == 403
    assert (await http.get("/orgs/acme/inbox")).status_code == 200


async def test_a_form_needs_the_token_of_this_session(http: httpx.AsyncClient, cast: Cast) -> None:
    token = await signed_in(http, cast.alice)
    own = {"Sec-Fetch-Site": "same-origin"}
    assert (await http.post("/logout", headers=own)).status_code == 403
    other = csrf_token("somebody else's session")
    assert (await http.post("/logout", data={"csrf_token": other}, headers=own)).status_code == 403
    assert (await http.get("/orgs/acme/inbox")).status_code == 200
    assert (await http.post("/logout", data={"csrf_token": csrf_token(token)}, headers=own)).status_code == 303
    assert (await http.get("/orgs/acme/inbox")).status_code == 303


async def test_another_organisations_pages_do_not_exist(http: httpx.AsyncClient, cast: Cast) -> None:
    await signed_in(http, cast.dave)
    assert (await http.get("/orgs/other/inbox")).status_code == 200
    theirs, nobodys = await http.get("/orgs/acme/inbox"), await http.get("/orgs/no-such/inbox")
    assert theirs.status_code == nobodys.status_code == 404


async def test_a_cookie_is_no_key_to_the_api(http: httpx.AsyncClient, cast: Cast) -> None:
    await signed_in(http, cast.alice)
    assert (await http.get("/api/v1/sources")).status_code == 401


async def test_a_session_without_its_second_factor_opens_nothing(http: httpx.AsyncClient, cast: Cast) -> None:
    half = await sign_in(cast.alice.email, cast.alice.password, ip="127.0.0.1", user_agent="test")
    http.headers["cookie"] = f"{COOKIE}={half.token}"
    assert (await http.get("/orgs/acme/inbox")).status_code == 303
    bearer = {"Authorization": f"Bearer {half.token}"}
    assert (await http.get("/api/v1/actions", headers=bearer)).status_code == 401


async def test_a_session_nobody_made_is_never_adopted(http: httpx.AsyncClient, cast: Cast) -> None:
    http.headers["cookie"] = f"{COOKIE}=chosen-by-an-attacker"
    answer = await http.post(
        "/login",
        data={"email": cast.alice.email, "password": cast.alice.password},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert "chosen-by-an-attacker" not in answer.headers.get("set-cookie", "")
    assert f"{COOKIE}=" in answer.headers["set-cookie"]
    for attribute in ("Secure", "HttpOnly", "Path=/", "SameSite=lax"):
        assert attribute.lower() in answer.headers["set-cookie"].lower()


async def test_an_open_invitation_is_shown_and_can_be_withdrawn(http: httpx.AsyncClient, cast: Cast) -> None:
    _, link = await invite_member(cast.alice.actor, "erin@example.org", Role.APPROVER)
    token = await signed_in(http, cast.alice)
    page = (await http.get("/orgs/acme/people")).text
    assert "erin@example.org" in page
    path = re.search(r"/orgs/acme/people/invitations/[0-9a-f-]+/withdraw", page)
    assert path
    form = {"csrf_token": csrf_token(token)}
    assert (await http.post(path[0], data=form, headers={"Sec-Fetch-Site": "same-origin"})).status_code == 303
    assert "erin@example.org" not in (await http.get("/orgs/acme/people")).text
    assert await find_invitation(link) is None


async def test_signing_in_again_ends_the_session_before(http: httpx.AsyncClient, cast: Cast) -> None:
    old = await signed_in(http, cast.alice)
    answer = await http.post(
        "/login",
        data={"email": cast.alice.email, "password": cast.alice.password, "csrf_token": csrf_token(old)},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert answer.status_code == 303
    assert (await http.get("/orgs/acme/inbox")).status_code == 303, "the cookie of before opens nothing any more"
