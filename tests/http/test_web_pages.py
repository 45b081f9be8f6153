"""The pages as people use them with forms alone: no JavaScript runs here."""

import re
from collections.abc import AsyncIterator
from html import unescape

import httpx
import pyotp
import pytest
import pytest_asyncio

from portal import clock
from portal.accounts.service import invite_end_user, invite_owner
from portal.accounts.sessions import COOKIE, csrf_token, sign_in
from portal.actions.service import reject
from tests.actions import Stage, make_stage, settings_chain
from tests.people import PASSWORD, Cast, Player

NEW_PASSWORD = "seven herons over the lake"


class Reader:
    """A person with a browser that keeps cookies, follows redirects when asked, and sends real forms."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self.token = ""

    async def sign_in(self, player: Player) -> None:
        session = await sign_in(player.email, player.password, player.code(-1), ip="127.0.0.1", user_agent="test")
        self.token = session.token

    async def get(self, path: str, **headers: str) -> httpx.Response:
        answer = await self.http.get(path, headers={"cookie": f"{COOKIE}={self.token}", **headers})
        return self._keep(answer)

    async def post(self, path: str, **fields: str | list[str]) -> httpx.Response:
        if self.token:
            fields = {"csrf_token": csrf_token(self.token), **fields}
        answer = await self.http.post(path, data=fields, headers={"cookie": f"{COOKIE}={self.token}"})
        return self._keep(answer)

    def _keep(self, answer: httpx.Response) -> httpx.Response:
        if set_cookie := answer.headers.get("set-cookie"):
            self.token = re.search(rf"{COOKIE}=\"?([^;\"]*)", set_cookie)[1] if COOKIE in set_cookie else self.token
        return answer


def text_of(answer: httpx.Response) -> str:
    """What a person reads: without tags, runs of white space as one space."""
    body = re.sub(r"<(script|style|svg).*?</\1>", " ", answer.text, flags=re.S)
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def live_address(page: httpx.Response) -> str:
    """Where an open page asks for what moves."""
    found = re.search(r'hx-get="([^"]+/progress[^"]*)"', page.text)
    assert found
    return unescape(found[1])


def approval(page: httpx.Response) -> dict[str, str]:
    """What the page's form for an approval sends besides the code."""
    return dict(re.findall(r'<input type="hidden" name="(digest|outcome_digest)" value="([^"]*)">', page.text))


@pytest_asyncio.fixture
async def stage(cast: Cast) -> AsyncIterator[Stage]:
    async with settings_chain() as node:
        yield await make_stage(cast, node)


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Reader(http)


async def test_the_start_leads_everybody_to_where_they_belong(reader: Reader, cast: Cast) -> None:
    assert (await reader.get("/")).headers["location"] == "/login"
    await reader.sign_in(cast.alice)
    assert (await reader.get("/")).headers["location"] == "/orgs/acme/inbox"


async def test_signing_in_takes_two_steps_and_a_new_cookie_each(reader: Reader, cast: Cast) -> None:
    asked = await reader.post("/login", email=cast.alice.email, password=PASSWORD, next="/orgs/acme/people")
    assert asked.headers["location"] == "/login/code?next=%2Forgs%2Facme%2Fpeople"
    cookie = asked.headers["set-cookie"].lower()
    assert all(word in cookie for word in ("__host-", "secure", "httponly", "samesite=lax", "path=/"))
    half = reader.token
    assert (await reader.get("/orgs/acme/inbox")).headers["location"].startswith("/login")
    wrong = await reader.post("/login/code", code="000000")
    assert wrong.status_code == 403
    assert "not valid" in text_of(wrong)
    done = await reader.post("/login/code", code=cast.alice.code(), next="/orgs/acme/people")
    assert done.headers["location"] == "/orgs/acme/people"
    assert reader.token not in ("", half)
    assert (await reader.get("/orgs/acme/people")).status_code == 200


async def test_a_wrong_password_is_said_without_losing_the_address(reader: Reader, cast: Cast) -> None:
    answer = await reader.post("/login", email=cast.bob.email, password="not the password")
    assert answer.status_code == 401
    assert "is not right" in text_of(answer)
    assert f'value="{cast.bob.email}"' in answer.text


@pytest.mark.parametrize("elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1"])
async def test_no_redirect_leads_to_another_site(reader: Reader, cast: Cast, elsewhere: str) -> None:
    await reader.post("/login", email=cast.bob.email, password=PASSWORD)
    answer = await reader.post("/login/code", code=cast.bob.code(), next=elsewhere)
    assert answer.headers["location"] == "/"


async def test_signing_out_ends_the_session(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    token = reader.token
    answer = await reader.post("/logout")
    assert answer.headers["location"] == "/login?done=signed_out"
    reader.token = token
    assert (await reader.get("/orgs/acme/inbox")).status_code == 303


async def test_the_first_owner_sets_up_everything_by_one_link(reader: Reader, database: None) -> None:
    link = f"/setup/{await invite_owner()}"
    assert "Set up your organisation" in text_of(await reader.get(link))
    short = await reader.post(
        link, organization_name="Acme Rewards", name="Ada Park", email="ada@acme.example", password="short"
    )
    assert short.status_code == 422
    assert 'value="Acme Rewards"' in short.text, "what was typed is kept"
    joined = await reader.post(
        link, organization_name="Acme Rewards", name="Ada Park", email="ada@acme.example", password=NEW_PASSWORD
    )
    assert joined.headers["location"].startswith("/account/second-factor")
    shown = await reader.get("/account/second-factor?welcome=true")
    assert "<svg" in shown.text.partition('class="qr"')[2]
    sealed = re.search(r'name="sealed" value="([^"]+)"', shown.text)[1]
    secret = re.search(r'data-copy="([A-Z2-7]{32})"', shown.text)[1]
    wrong = await reader.post("/account/second-factor", sealed=sealed, code="000000", next="/")
    assert wrong.status_code == 403
    assert secret in wrong.text, "the same key again, nothing is scanned twice"
    code = pyotp.TOTP(secret).at(clock.now())
    done = await reader.post("/account/second-factor", sealed=sealed, code=code, next="/")
    assert done.headers["location"] == "/?done=second_factor_set"
    assert (await reader.get("/")).headers["location"] == "/orgs/acme-rewards/inbox"
    assert (await Reader(reader.http).get(link)).status_code == 404, "the link works once"


async def test_a_member_is_invited_and_comes_in(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    answer = await reader.post("/orgs/acme/people/invite", email="erin@example.org", role="approver")
    link = re.search(r'data-copy="http://127\.0\.0\.1:8000(/invitations/[^"]+)"', answer.text)[1]
    assert 'action="/orgs/acme/people/invite"' in answer.text, "the answer's own form invites the next one"
    erin = Reader(reader.http)
    assert "Join Acme" in text_of(await erin.get(link))
    await erin.post(link, name="Erin", password=NEW_PASSWORD)
    people = text_of(await erin.get("/orgs/acme/people"))
    assert "Erin (you)" in people
    assert "Invite somebody" not in people, "an approver invites nobody"


async def test_the_inbox_says_what_waits_in_sentences(reader: Reader, stage: Stage) -> None:
    await reader.sign_in(stage.cast.bob)
    assert "Nothing waits for you" in text_of(await reader.get("/orgs/acme/inbox"))
    await stage.propose_mint()
    page = await reader.get("/orgs/acme/inbox")
    shown = text_of(page)
    assert "Mint 50 PTS to Ada Park" in shown
    assert "0 of 2" in shown
    assert "The first action for Ada Park." in shown
    rows = await reader.get("/orgs/acme/inbox/rows", **{"HX-Request": "true"})
    assert rows.text.lstrip().startswith("<ul")
    assert "HX-Request" in rows.headers["vary"]


async def test_two_people_approve_by_forms_and_the_card_tells_it(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    path = f"/orgs/acme/actions/{action.id}"
    for player, given in ((stage.cast.bob, 1), (stage.cast.alice, 2)):
        await reader.sign_in(player)
        page = await reader.get(path)
        assert action.fingerprint in page.text
        assert "it would succeed" in text_of(page)
        done = await reader.post(f"{path}/approve", **approval(page), code=player.code())
        assert done.headers["location"] == f"{path}?done=approved"
        assert f"{given} of 2" in text_of(await reader.get(path))
    card = text_of(await reader.get(path))
    assert "Enough people approved" in card
    assert "Approved. A worker signs and sends it" in card
    live = await reader.get(live_address(await reader.get(path)))
    assert 'hx-trigger="live:action from:#live' in live.text
    assert "<h1" not in live.text, "only what moves"


async def test_an_open_page_follows_the_decisions_of_others(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    path = f"/orgs/acme/actions/{action.id}"
    await reader.sign_in(stage.cast.carol)
    live = live_address(await reader.get(path))
    await reject(stage.cast.bob.actor, action.id, "Not this month")
    changed = await reader.get(live, **{"HX-Request": "true"})
    assert changed.headers["hx-retarget"] == "#action"
    assert "Not this month" in text_of(changed)


async def test_a_wrong_code_or_digest_approves_nothing_and_says_why(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    path = f"/orgs/acme/actions/{action.id}"
    await reader.sign_in(stage.cast.bob)
    form = approval(await reader.get(path))
    wrong_code = await reader.post(f"{path}/approve", **form, code="000000")
    assert wrong_code.status_code == 403
    assert "not valid" in text_of(wrong_code)
    wrong_digest = await reader.post(f"{path}/approve", **{**form, "digest": "00" * 32}, code=stage.cast.bob.code())
    assert wrong_digest.status_code == 409
    assert "not the call that you were shown" in text_of(wrong_digest)
    assert "0 of 2" in text_of(await reader.get(path))


async def test_the_stages_say_what_is_waited_for(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await reader.sign_in(stage.cast.bob)
    page = await reader.get(f"/orgs/acme/actions/{action.id}")
    assert '<li class="stage-wait" aria-current="step">Waits for approval</li>' in page.text
    assert ">Approved</li>" not in page.text


async def test_a_refused_reason_is_not_lost(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await reader.sign_in(stage.cast.bob)
    answer = await reader.post(f"/orgs/acme/actions/{action.id}/reject", reason="No" + "o" * 600)
    assert answer.status_code == 400
    assert "No" + "o" * 600 in answer.text


async def test_a_rejection_needs_a_reason_and_ends_it(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    path = f"/orgs/acme/actions/{action.id}"
    await reader.sign_in(stage.cast.bob)
    assert (await reader.post(f"{path}/reject", reason="")).status_code == 400
    await reader.post(f"{path}/reject", reason="Twice the usual <amount>")
    page = await reader.get(path)
    assert "Twice the usual <amount>" in text_of(page)
    assert "<amount>" not in page.text, "a reason is text, never markup"
    assert "/progress" not in page.text, "nothing more will happen, so nothing is asked for"


async def test_who_may_not_decide_is_told_so(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await reader.sign_in(stage.cast.carol)
    page = await reader.get(f"/orgs/acme/actions/{action.id}")
    assert 'name="code"' not in page.text
    assert "can look at actions" in text_of(page)
    assert (await reader.post(f"/orgs/acme/actions/{action.id}/approve", digest=action.digest)).status_code == 403


async def test_another_organisation_is_not_there(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    await reader.sign_in(stage.cast.dave)
    for path in ("/orgs/acme/inbox", f"/orgs/acme/actions/{action.id}", f"/orgs/other/actions/{action.id}"):
        assert (await reader.get(path)).status_code == 404


@pytest.mark.parametrize(
    "path", ["/orgs/acme", "/orgs/acme/overview", "/orgs/acme/inbox", "/orgs/acme/actions", "/orgs/acme/people"]
)
async def test_pages_of_an_empty_organisation_are_never_blank(reader: Reader, cast: Cast, path: str) -> None:
    await reader.sign_in(cast.carol)
    page = await reader.get(path)
    assert page.status_code == 200
    assert len(text_of(page)) > 200
    assert " style=" not in page.text
    assert not re.search(r"<script(?![^>]*\bsrc=)", page.text), "no inline script"
    assert not re.search(r"\son[a-z]+=", page.text), "no inline handler"


async def test_the_filters_of_actions_keep_to_what_they_say(reader: Reader, stage: Stage) -> None:
    await stage.propose_mint()
    await reader.sign_in(stage.cast.carol)
    assert "Mint 50 PTS" in text_of(await reader.get("/orgs/acme/actions?status=proposed"))
    assert "None in this state" in text_of(await reader.get("/orgs/acme/actions?status=rejected"))
    assert "Mint 50 PTS" in text_of(await reader.get("/orgs/acme/actions?status=nonsense"))


async def test_an_end_user_sees_what_was_approved_for_them_and_no_hex(reader: Reader, stage: Stage) -> None:
    action = await stage.propose_mint()
    _, token = await invite_end_user(stage.cast.oscar.actor, stage.ada_id)
    ada = Reader(reader.http)
    joined = await ada.post(f"/invitations/{token}", name="Ada Park", email="ada@home.example", password=NEW_PASSWORD)
    assert joined.headers["location"].startswith("/my")
    assert "Nothing yet" in text_of(await ada.get("/my")), "a proposal is nobody's yet"
    assert (await ada.get(f"/my/{action.id}")).status_code == 404
    for player in (stage.cast.bob, stage.cast.alice):
        await reader.sign_in(player)
        path = f"/orgs/acme/actions/{action.id}"
        await reader.post(f"{path}/approve", **approval(await reader.get(path)), code=player.code())
    mine = await ada.get("/my")
    assert "50 PTS, on its way" in text_of(mine)
    assert "approved by two people" in text_of(mine)
    assert "0x" not in text_of(mine)
    assert "Two people approved it" in text_of(await ada.get(f"/my/{action.id}"))
    assert (await ada.get("/orgs/acme/inbox")).status_code == 404


async def test_sessions_and_password_are_changed_by_their_owner(reader: Reader, cast: Cast) -> None:
    other = Reader(reader.http)
    await other.sign_in(cast.alice)
    session = await sign_in(cast.alice.email, PASSWORD, cast.alice.code(), ip="127.0.0.1", user_agent="test")
    reader.token = session.token
    wrong = await reader.post("/account/password", current_password="guess", password=NEW_PASSWORD)
    assert wrong.status_code == 400
    assert "not your present password" in text_of(wrong)
    await reader.post("/account/password", current_password=PASSWORD, password=NEW_PASSWORD)
    assert (await reader.get("/account")).status_code == 200
    assert (await other.get("/account")).status_code == 303, "other sessions have ended"


async def test_a_missing_page_says_so_with_a_reference(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    page = await reader.get("/orgs/acme/actions/00000000-0000-0000-0000-000000000000")
    assert page.status_code == 404
    assert page.headers["x-correlation-id"] in page.text
    fragment = await reader.get(
        "/orgs/acme/actions/00000000-0000-0000-0000-000000000000/progress", **{"HX-Request": "true"}
    )
    assert fragment.headers["hx-retarget"] == "#flash"
    assert "<html" not in fragment.text


async def test_htmx_is_led_to_the_login_as_a_whole_page(reader: Reader, cast: Cast) -> None:
    answer = await reader.get("/orgs/acme/inbox/rows", **{"HX-Request": "true"})
    assert answer.status_code == 401
    assert answer.headers["hx-redirect"] == "/login"


async def test_whose_session_is_over_hears_it_and_comes_back(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    await reader.post("/logout")
    gone = {"cookie": f"{COOKIE}={'x' * 43}"}
    read = await reader.http.get("/orgs/acme/people", headers=gone)
    assert read.headers["location"] == "/login?next=%2Forgs%2Facme%2Fpeople&done=session_ended"
    sent = await reader.http.post(
        "/orgs/acme/people/invite", headers=gone | {"referer": "http://127.0.0.1:8000/orgs/acme/people"}
    )
    assert sent.headers["location"] == "/login?next=%2Forgs%2Facme%2Fpeople&done=session_ended_unsaved"
    assert "nothing was saved" in text_of(await reader.http.get(sent.headers["location"]))


async def test_a_new_organisation_is_shown_its_first_steps(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    assert "Nothing is set up yet" in text_of(await reader.get("/orgs/acme/inbox"))
    assert "First steps" in text_of(await reader.get("/orgs/acme/overview"))
    await reader.sign_in(cast.carol)
    assert "First steps" not in text_of(await reader.get("/orgs/acme/overview")), "an auditor sets nothing up"


async def test_the_theme_is_chosen_without_a_script(reader: Reader, database: None) -> None:
    answer = await reader.post("/theme", theme="dark", next="/login")
    assert answer.headers["location"] == "/login"
    assert "theme=dark" in answer.headers["set-cookie"]
    dark = await reader.http.get("/login", headers={"cookie": "theme=dark"})
    assert 'data-bs-theme="dark"' in dark.text
    odd = await reader.http.get("/login", headers={"cookie": 'theme="><script>'})
    assert "<script>" not in odd.text


async def test_a_new_phone_needs_a_code_of_the_old_one_too(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    shown = await reader.get("/account/second-factor")
    sealed = re.search(r'name="sealed" value="([^"]+)"', shown.text)[1]
    secret = re.search(r'data-copy="([A-Z2-7]{32})"', shown.text)[1]
    fields = {"sealed": sealed, "code": pyotp.TOTP(secret).at(clock.now())}
    assert (await reader.post("/account/second-factor", **fields)).status_code == 403
    done = await reader.post("/account/second-factor", **fields, current_code=cast.alice.code())
    assert done.headers["location"] == "/account?done=second_factor_set"
