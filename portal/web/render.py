"""Turns templates into answers: the Jinja environment, its filters, full pages, fragments and errors."""

import math
import unicodedata
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal, localcontext
from functools import cache
from typing import Any
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, Request, Response
from litestar.response import Redirect
from markupsafe import Markup

from portal import clock
from portal.accounts.sessions import COOKIE, csrf_token
from portal.errors import NotSignedIn, PortalError
from portal.settings import ROOT
from portal.web.messages import DONE
from portal.web.states import action_state, state_of

AnyRequest = Request[Any, Any, Any]
ICONS = ROOT / "node_modules" / "@tabler" / "icons" / "icons" / "outline"
THEMES = ("light", "dark")
BACKGROUND = "x-background"
"""Header of what every page asks by itself, however long it is open: it keeps no session alive."""
NEARLY = 1.01
WEI_DECIMALS = 18
UNITS = ((31_536_000, "year"), (2_592_000, "month"), (86_400, "day"), (3_600, "hour"), (60, "minute"))


@cache
def icon(name: str) -> Markup:
    """An outline icon as inline SVG that takes the text's colour and size; hidden from screen readers."""
    svg = (ICONS / f"{name}.svg").read_text()
    inner = svg[svg.index(">", svg.index("<svg")) + 1 :]
    return Markup(  # noqa: S704  the file is an installed package's, its name is ours
        '<svg class="icon" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.75" '
        'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">' + inner.strip()
    )


def relative(moment: datetime, now: datetime) -> str:
    """`3 minutes ago`, `in 2 hours`, `just now`. What is almost 7 days ahead is in 7 days."""
    seconds = (now - moment).total_seconds()
    if seconds < 0:
        seconds *= NEARLY
    for size, unit in UNITS:
        if abs(seconds) >= size:
            count = math.floor(abs(seconds) / size)
            words = f"{count} {unit}{'' if count == 1 else 's'}"
            return f"{words} ago" if seconds > 0 else f"in {words}"
    return "just now" if seconds >= 0 else "in less than a minute"


def time_element(moment: datetime | str) -> Markup:
    """Relative time as text, absolute on hover; the browser puts it into the reader's zone."""
    at = (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone(UTC)
    return Markup('<time datetime="{}" title="{}" data-relative>{}</time>').format(
        at.isoformat(timespec="seconds"), at.strftime("%-d %B %Y, %H:%M:%S UTC"), relative(at, clock.now())
    )


def moment_element(moment: datetime | str) -> Markup:
    """The whole moment as text; the browser puts it into the reader's zone."""
    at = (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone(UTC)
    return Markup('<time datetime="{}" data-absolute>{}</time>').format(
        at.isoformat(timespec="seconds"), at.strftime("%-d %B %Y, %H:%M:%S UTC")
    )


def clock_element(moment: datetime | str) -> Markup:
    """The time of day as text, with the day if that is not today, the whole moment on hover: for timelines."""
    at = (datetime.fromisoformat(moment) if isinstance(moment, str) else moment).astimezone(UTC)
    form = "%H:%M:%S" if at.date() == clock.now().date() else "%-d %b %H:%M:%S"
    return Markup('<time datetime="{}" title="{}" data-clock>{}</time>').format(
        at.isoformat(timespec="milliseconds"), at.strftime("%-d %B %Y, %H:%M:%S UTC"), at.strftime(form)
    )


def amount(value: int | str | Decimal, decimals: int | None = 0, symbol: str | None = None) -> str:
    """`1,250.5 PTS` from the smallest unit. Exact: never through a float."""
    digits = str(abs(int(value))).rjust((decimals or 0) + 1, "0")
    whole, fraction = (digits[:-decimals], digits[-decimals:].rstrip("0")) if decimals else (digits, "")
    text = f"{int(whole):,}" + (f".{fraction}" if fraction else "")
    return f"{'-' if int(value) < 0 else ''}{text}{f' {symbol}' if symbol else ''}"


def coins(wei: int | str, symbol: str) -> str:
    """`999.998 ETH`: the six digits that matter, rounded down; exact amounts are for where something is decided."""
    with localcontext(prec=6, rounding=ROUND_DOWN):
        rounded = +Decimal(int(wei))
    return amount(int(rounded), WEI_DECIMALS, symbol)


def short(value: str) -> str:
    """`0x1234…cdef`: the two ends that people compare."""
    return value if len(value) <= 13 else f"{value[:6]}…{value[-4:]}"


def exposed(text: str) -> str:
    """`text` with what cannot be seen, or turns around what follows it, by its number: `⟨U+202E⟩`. Lines stay lines."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c)[0] == "C" and c not in "\n\t" else c for c in text)


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 signal`, `3 signals`, `12,500 signals`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def browser(user_agent: str) -> str:
    """`Chrome on Windows`: enough to recognise one's own session."""
    # Most specific first: Edge also says Chrome, and Chrome also says Safari.
    names = (("Edg", "Edge"), ("OPR", "Opera"), ("Firefox", "Firefox"), ("Chrome", "Chrome"), ("Safari", "Safari"))
    systems = (
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Android", "Android"),
        ("Windows", "Windows"),
        ("Mac OS", "Mac"),
        ("Linux", "Linux"),
    )
    name = next((name for mark, name in names if mark in user_agent), None)
    system = next((system for mark, system in systems if mark in user_agent), None)
    return f"{name} on {system}" if name and system else name or (user_agent[:40] or "An unnamed program")


def duration(seconds: float) -> str:
    """`0.4 s`, `3 min`, `2 h`, `5 days`: the largest unit that fits."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def query(**parameters: Any) -> str:
    """`?a=1&b=2` of what is not empty, else nothing."""
    given = {name: value for name, value in parameters.items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else ""


@cache
def environment() -> Environment:
    """The one Jinja environment: escapes everything, and an undefined name is an error."""
    made = Environment(
        loader=FileSystemLoader(ROOT / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    made.globals |= {
        "icon": icon,
        "state_of": state_of,
        "action_state": action_state,
        "count": count,
        "query": query,
        "now": clock.now,
    }
    made.filters |= {
        "ago": time_element,
        "clock": clock_element,
        "moment": moment_element,
        "amount": amount,
        "coins": coins,
        "short": short,
        "exposed": exposed,
        "browser": browser,
    }
    return made


def is_htmx(request: AnyRequest) -> bool:
    return request.headers.get("hx-request") == "true"


def page(
    request: AnyRequest, template: str, context: dict[str, Any] | None = None, *, status: int = 200
) -> Response[str]:
    """A whole page. Templates also see `csrf_token`, `theme`, `path` and `done` (a message after a redirect)."""
    theme = request.cookies.get("theme")
    ambient = {
        "csrf_token": _csrf_token(request),
        "theme": theme if theme in THEMES else None,
        "path": request.url.path,
        "done": DONE.get(request.query_params.get("done", "")),
        "error": None,
    }
    return _answer(environment().get_template(template).render(ambient | (context or {})), status)


def fragment(
    request: AnyRequest, template: str, context: dict[str, Any], *, headers: dict[str, str] | None = None
) -> Response[str]:
    """A piece of a page, for htmx; the template is a `_partial.html` that its page includes."""
    ambient = {"csrf_token": _csrf_token(request), "path": request.url.path}
    answer = _answer(environment().get_template(template).render(ambient | context), 200)
    answer.headers.update(headers or {})
    return answer


def see_other(path: str, *, done: str | None = None) -> Redirect:
    """The answer to every form that succeeded: 303 to a page, which shows the message `done`."""
    if done is not None and done not in DONE:
        raise KeyError(done)
    return Redirect(f"{path}{'&' if '?' in path else '?'}done={done}" if done else path, status_code=303)


def render_error(request: AnyRequest, error: PortalError, correlation_id: str) -> Response[Any]:
    """An expected error: a full page, or an alert in `#flash` for htmx. Not signed in leads to the login page."""
    if isinstance(error, NotSignedIn):
        return _to_login(request)
    context = {"problem": error, "correlation_id": correlation_id}
    if is_htmx(request):
        answer = _answer(environment().get_template("_alert.html").render(context), error.status)
        answer.headers.update({"HX-Retarget": "#flash", "HX-Reswap": "innerHTML", "HX-Reselect": ".alert"})
        return answer
    return page(request, "error.html", context, status=error.status)


def local_path(value: str | None, fallback: str) -> str:
    """`value` if it is a path on this site, else `fallback`: no redirect leads elsewhere."""
    # What a browser reads as a host (`//host`, `/\host`, either with control characters between) is no path.
    if not value or not value.startswith("/") or value.startswith("//") or "\\" in value:
        return fallback
    return fallback if any(ord(letter) < 32 for letter in value) else value


def _csrf_token(request: AnyRequest) -> str:
    """Of the session that sent the request; empty for a stranger, and where the request failed before it was known."""
    token = getattr(request.scope.get("user"), "token", None)
    return csrf_token(token) if token else ""


def _to_login(request: AnyRequest) -> Response[Any]:
    """To the sign-in and back to the page that was open; whoever had a session hears that it is over."""
    reading = request.method == "GET"
    shown = request.headers.get("hx-current-url") or request.headers.get("referer") or "/"
    asked = request.url.path if reading and not is_htmx(request) else local_path(urlsplit(shown).path, "/")
    ended = ("session_ended" if reading else "session_ended_unsaved") if request.cookies.get(COOKIE) else None
    path = f"/login{query(next=None if asked == '/' else asked, done=ended)}"
    if is_htmx(request):
        return Response(
            "", status_code=401, media_type=MediaType.HTML, headers={"HX-Redirect": path, "Vary": "HX-Request"}
        )
    return Redirect(path, status_code=303)


def _answer(html: str, status: int) -> Response[str]:
    # A page shows what one person may see, so no cache keeps it; the back button asks again.
    return Response(
        html,
        status_code=status,
        media_type=MediaType.HTML,
        headers={"Vary": "HX-Request, Cookie", "Cache-Control": "no-store"},
    )
