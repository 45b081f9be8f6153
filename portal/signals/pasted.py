"""Reads a request that somebody pasted: a `curl` command, raw HTTP, or just headers and a body. Pure."""

import base64
import re
import shlex

import msgspec

REQUEST_LINE = re.compile(r"[A-Z]{3,10} (?P<target>\S+)(?: HTTP/[0-9.]+)?")
HEADER = re.compile(r"(?P<name>[A-Za-z0-9!#$%&'*+.^_`|~-]+)[ ]?[:\t]\s*(?P<value>.*)")
ANSI_TEXT = re.compile(r"\$'((?:\\.|[^'\\])*)'", re.S)
ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "0": "\0"}
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.S)
DATA = {"-d", "--data", "--data-raw", "--data-binary", "--data-ascii", "--json"}
WITH_VALUE = DATA | {
    *("-H", "--header", "-u", "--user", "-X", "--request", "--url", "-A", "--user-agent", "-b", "--cookie"),
    *("-e", "--referer", "-o", "--output", "-m", "--max-time", "--connect-timeout", "--connect-to", "--resolve"),
    *("-F", "--form", "--data-urlencode", "-x", "--proxy", "-w", "--write-out", "--retry"),
}


class Pasted(msgspec.Struct, frozen=True):
    """A request as far as the text tells. Names of headers are in lower case."""

    headers: list[tuple[bytes, bytes]]
    body: str
    url: str | None = None
    """Where it was sent, with its query."""


def read_pasted(text: str) -> Pasted:
    """Whatever the text is; without a header that can be found, all of it is the body."""
    text = _whole(text.replace("\r\n", "\n").strip("\n"))
    if re.match(r"\s*\$?\s*curl\s", text):
        return _read_curl(text.strip().removeprefix("$").strip())
    return _read_http(text)


def _read_curl(text: str) -> Pasted:
    try:
        words = shlex.split(ANSI_TEXT.sub(lambda found: shlex.quote(_unescaped(found[1])), text))
    except ValueError:  # a quotation without an end
        return Pasted([], text)
    headers, data, url, waiting = list[tuple[bytes, bytes]](), list[str](), None, iter(words[1:])
    for word in waiting:
        option, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if re.fullmatch(r"-[HduX].+", word):
            option, value, equals = word[:2], word[2:], "="
        if option in WITH_VALUE:
            value = value if equals else next(waiting, "")
            headers += _headers_of_option(option, value)
            data += [value] if option in DATA else []
            url = value if option == "--url" else url
        elif not word.startswith("-"):
            url = url or word
    if data and b"content-type" not in dict(headers):
        headers.append((b"content-type", b"application/x-www-form-urlencoded"))
    return Pasted(headers, "&".join(data), url)


def _headers_of_option(option: str, value: str) -> list[tuple[bytes, bytes]]:
    if option in ("-u", "--user"):
        return [(b"authorization", b"Basic " + base64.b64encode(value.encode()))]
    if option == "--json":
        return [(b"content-type", b"application/json")]
    found = HEADER.fullmatch(value) if option in ("-H", "--header") else None
    return [_pair(found)] if found else []


def _unescaped(text: str) -> str:
    """What `$'...'` means to bash."""
    return _whole(
        ESCAPE.sub(
            lambda found: ESCAPES.get(found[3], found[3]) if found[3] else chr(int(found[1] or found[2], 16)), text
        )
    )


def _whole(text: str) -> str:
    """Pairs of surrogates joined; what is left of others becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_http(text: str) -> Pasted:
    lines, headers, target = text.split("\n"), list[tuple[bytes, bytes]](), None
    place = 0
    if first := REQUEST_LINE.fullmatch(lines[0].strip()):
        target, place = first["target"], 1
    while place < len(lines) and lines[place].strip():
        line = lines[place].strip()
        found = HEADER.fullmatch(line)
        if not found and not line.startswith(":"):
            break
        headers += [_pair(found)] if found else []
        place += 1
    if not headers:
        return Pasted([], text, _url(target, headers))
    body = "\n".join(lines[place:])
    return Pasted(headers, body.removeprefix("\n"), _url(target, headers))


def _pair(found: re.Match[str]) -> tuple[bytes, bytes]:
    return found["name"].lower().encode(), found["value"].strip().encode()


def _url(target: str | None, headers: list[tuple[bytes, bytes]]) -> str | None:
    if target is None or target.startswith(("http://", "https://")):
        return target
    host = dict(headers).get(b"host", b"").decode("latin-1")
    return f"https://{host}{target}" if host and target.startswith("/") else None
