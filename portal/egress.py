"""Sends requests to addresses that customers name, without letting them reach what only this network can.

A name is resolved here, every address of it is judged, and the connection goes to an address that was judged: what the
name means a moment later (DNS rebinding) does not matter. TLS is verified against the name. Redirects are not followed
and proxies of the environment not used. What the operator's `PORTAL_EGRESS_ALLOW` names is reached nevertheless.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TypeVar

import aiohttp
from yarl import URL

from portal import clock
from portal.errors import FieldError
from portal.settings import get_settings

T = TypeVar("T")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

RESOLVE_SECONDS = 5
CONNECT_SECONDS = 5
MOST_ADDRESSES = 4
"""Of a name, tried one after the other."""
LONGEST_WAIT_SECONDS = 86400
LEAST_FREE_PORT = 1024

METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # AWS, Azure, Google Cloud and most others
        "169.254.170.2",  # AWS ECS
        "169.254.170.23",  # AWS EKS
        "168.63.129.16",  # Azure, a public address
        "100.100.100.200",  # Alibaba Cloud
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS over IPv6
        "fd00:ec2::23",  # AWS EKS over IPv6
        "fd20:ce::254",  # Google Cloud over IPv6
    )
)
"""Hands out a machine's credentials: never reached, whatever the operator allows."""
GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")
"""All that IANA has assigned to the internet; mapped (`::ffff:0:0/96`) and NAT64 (`64:ff9b::/96`) addresses are not."""
SPECIAL = tuple(
    ipaddress.ip_network(text)
    for text in (
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
        "192.88.99.0/24",  # relays of 6to4 (RFC 7526)
        "2001::/23",  # IETF protocol assignments, Teredo among them (RFC 4380)
        "2001:db8::/32",
        "2002::/16",  # 6to4, each with an IPv4 address inside (RFC 3056)
        "3fff::/20",  # documentation (RFC 9637)
    )
)
"""Special addresses that `ipaddress` of some Python version calls global."""


class RequestFailed(Exception):
    """There is no answer; the text is a sentence for people that holds neither a header nor the query."""


def refusal(address: Address, allowed: Sequence[Network]) -> str | None:
    """Why `address` is not connected to, continuing "... is"; None where it may be. Pure."""
    if address in METADATA or getattr(address, "ipv4_mapped", None) in METADATA:
        return "a cloud's metadata service"
    if any(address.version == network.version and address in network for network in allowed):
        return None
    if address.version == 6 and address not in GLOBAL_IPV6:
        return "not an address of the internet"
    if any(address.version == network.version and address in network for network in SPECIAL):
        return "an address with a special purpose"
    if not address.is_global or address.is_multicast or address.is_reserved:
        return "not an address of the internet"
    return None


def check_url(text: str, path: str) -> URL:
    """The address of an API. Raises `FieldError` at `path` for what would be refused whatever its name resolves to."""
    try:
        url = URL(text)
        port, host = url.port, url.host
    except ValueError:
        raise FieldError(path, "This is not a web address such as https://api.example.org/orders.") from None
    if url.scheme not in ("http", "https") or not host or not text.isascii() or not text.isprintable():
        raise FieldError(path, "Give a web address such as https://api.example.org/orders.")
    if url.user is not None or url.password is not None:
        raise FieldError(path, "Leave the password out of the address: addresses are shown.")
    if url.raw_fragment:
        raise FieldError(path, "Leave out the part after #: a server never sees it.")
    if port not in (80, 443) and (port or 0) < LEAST_FREE_PORT:
        raise FieldError(path, f"Only the ports 80, 443 and those from {LEAST_FREE_PORT} on are connected to.")
    if url.scheme == "http" and not _allowed():
        raise FieldError(path, "Use https://. Without TLS anybody on the way could read and change what is said.")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        return url
    if reason := refusal(literal, _allowed()):
        raise FieldError(path, f"{literal} is {reason}, to which no connections are made.")
    return url


async def request(
    method: str,
    url: URL,
    headers: Mapping[str, str],
    read: Callable[[aiohttp.ClientResponse], Awaitable[T]],
    *,
    seconds: float,
    body: bytes | None = None,
) -> T:
    """Send a request and give what `read` makes of the answer, all within `seconds`. Raises `RequestFailed`.

    A second address of the host is tried only where nothing was connected to, so what is sent is sent at most once.
    """
    host = url.raw_host
    assert host, "check_url refuses an address without a host"
    addresses = await _resolve(host, url)
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False) as session:
        for place, address in enumerate(addresses, start=1):
            try:
                async with session.request(
                    method,
                    url.with_host(str(address)),
                    data=body,
                    headers={**headers, "Host": url.host_port_subcomponent or host},
                    server_hostname=host if url.scheme == "https" else None,
                    ssl=tls_context(),
                    allow_redirects=False,
                ) as response:
                    return await read(response)
            except aiohttp.ClientConnectorCertificateError as error:
                raise RequestFailed(f"The certificate of {host} is not valid: {error.certificate_error}.") from None
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                if place == len(addresses):
                    reason = getattr(error, "strerror", None) or f"no connection within {CONNECT_SECONDS} seconds"
                    raise RequestFailed(f"{host} cannot be reached: {reason}.") from None
            except TimeoutError:
                raise RequestFailed(f"{host} does not answer within {seconds:g} seconds.") from None
            except aiohttp.ClientError as error:
                raise RequestFailed(f"{host} broke off or does not speak HTTP ({type(error).__name__}).") from None
    raise AssertionError("a name resolves to at least one address")


@cache
def tls_context() -> ssl.SSLContext:
    """What certificates are verified with: the system's authorities."""
    return ssl.create_default_context()


async def _resolve(host: str, url: URL) -> list[Address]:
    """The addresses to try. Raises `RequestFailed` if the name has none, or any that must not be reached."""
    loop = asyncio.get_running_loop()
    try:
        found = await asyncio.wait_for(loop.getaddrinfo(host, url.port, type=socket.SOCK_STREAM), RESOLVE_SECONDS)
    except TimeoutError:
        raise RequestFailed(f"The name {host} could not be resolved within {RESOLVE_SECONDS} seconds.") from None
    except (OSError, UnicodeError):
        raise RequestFailed(f"There is no host {host}.") from None
    addresses = list(dict.fromkeys(ipaddress.ip_address(each[4][0]) for each in found))
    for address in addresses:
        if reason := refusal(address, _allowed()):
            named = "" if str(address) == host else f"{host} has the address "
            raise RequestFailed(f"{named}{address}, which is {reason}: no connection is made to it.")
        if url.scheme == "http" and refusal(address, ()) is None:
            raise RequestFailed(
                f"{host} must be reached over https://: without TLS anybody on the way could change what is said."
            )
    return addresses[:MOST_ADDRESSES]


@cache
def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())


def _allowed() -> tuple[Network, ...]:
    return _networks(get_settings().egress_allow)


def retry_after(response: aiohttp.ClientResponse) -> int | None:
    """Seconds of `Retry-After` (RFC 9110, 10.2.3), at most a day; None where it says nothing readable."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return int(value[:9]) if int(value[:9]) < LONGEST_WAIT_SECONDS else LONGEST_WAIT_SECONDS
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    wait = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - clock.now()
    return max(0, min(int(wait.total_seconds()), LONGEST_WAIT_SECONDS))
