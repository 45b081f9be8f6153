"""Which addresses customers may let us reach: the internet's, and nothing that only this network can."""

import contextlib
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.egress import METADATA, check_url, refusal
from portal.errors import FieldError
from tests.pulls import egress_allowed

IPV4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
IPV6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
PRIVATE_IPV4 = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
]


def within(network: str) -> st.SearchStrategy[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    block = ipaddress.ip_network(network)
    return st.integers(0, block.num_addresses - 1).map(lambda place: block[place])


@given(st.one_of([within(network) for network in PRIVATE_IPV4]))
def test_no_special_ipv4_address_is_reached(address: ipaddress.IPv4Address) -> None:
    assert refusal(address, ())


@given(IPV4)
def test_no_form_of_ipv4_inside_ipv6_is_reached_not_even_of_a_public_address(address: ipaddress.IPv4Address) -> None:
    number = int(address)
    embedded = {
        "mapped": (0xFFFF << 32) | number,
        "compatible": number,
        "translated (RFC 2765)": (0xFFFF << 48) | number,
        "NAT64": (0x64FF9B << 96) | number,
        "local NAT64": (0x64FF9B0001 << 80) | number,
        "6to4": (0x2002 << 112) | (number << 80) | 1,
        "Teredo": (0x20010000 << 96) | (0x41000001 << 64) | (number ^ 0xFFFFFFFF),
    }
    for form, value in embedded.items():
        assert refusal(ipaddress.IPv6Address(value), ()), form


@given(
    st.one_of(within("fc00::/7"), within("fe80::/10"), within("fec0::/10"), within("ff00::/8"), within("2001:db8::/32"))
)
def test_no_special_ipv6_address_is_reached(address: ipaddress.IPv6Address) -> None:
    assert refusal(address, ())


@given(IPV6)
def test_of_ipv6_only_what_the_internet_routes_is_reached(address: ipaddress.IPv6Address) -> None:
    if refusal(address, ()) is None:
        assert address in ipaddress.ip_network("2000::/3")
        assert address.is_global
        assert not address.sixtofour
        assert not address.teredo


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "2a00:1450:4001::1"])
def test_public_addresses_are_reached(address: str) -> None:
    assert refusal(ipaddress.ip_address(address), ()) is None


@given(st.sampled_from(sorted(METADATA, key=str)))
def test_what_hands_out_credentials_is_reached_by_no_setting(address: ipaddress.IPv4Address) -> None:
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    assert refusal(address, everything)
    if address.version == 4:
        assert refusal(ipaddress.ip_address(f"::ffff:{address}"), everything)


@given(within("10.20.0.0/16"), within("10.21.0.0/16"))
def test_the_operator_opens_exactly_what_is_named(
    inside: ipaddress.IPv4Address, outside: ipaddress.IPv4Address
) -> None:
    allowed = (ipaddress.ip_network("10.20.0.0/16"), ipaddress.ip_network("fd00:1::/32"))
    assert refusal(inside, allowed) is None
    assert refusal(outside, allowed)
    assert refusal(ipaddress.IPv6Address((0xFFFF << 32) | int(inside)), allowed), "not in another spelling"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "https://",
        "https:///path",
        "example.org",
        "file:///etc/passwd",
        "https://user:password@example.org/",
        "https://example.org/#fragment",
        "https://example.org:22/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://example.org:port/",
        "https://ex ample\n.org/",
        "https://①②⑦.0.0.1/",
        "http://example.org/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://xn--/",
    ],
)
def test_what_can_never_be_fetched_is_refused_with_its_place(url: str) -> None:
    with pytest.raises(FieldError) as refused:
        check_url(url, "/settings/url")
    assert refused.value.path == "/settings/url"


@pytest.mark.parametrize(
    "url", ["https://api.example.org/orders?status=paid", "https://api.example.org:8443/", "https://1.1.1.1/"]
)
def test_ordinary_addresses_are_taken(url: str) -> None:
    assert str(check_url(url, "/settings/url")) == url


def test_without_tls_only_the_operators_own_systems_are_asked() -> None:
    with egress_allowed("10.0.0.0/8"):
        check_url("http://erp.internal:8080/orders", "/settings/url")
        check_url("http://10.1.2.3/", "/settings/url")
        with pytest.raises(FieldError):
            check_url("http://192.168.1.1/", "/settings/url")


@given(
    st.one_of(
        st.text(max_size=30).map(lambda host: f"https://{host}/"),
        st.text("xn-.:[]%0a1", max_size=30).map(lambda host: f"https://{host}/"),
        st.text(max_size=60),
    )
)
def test_whatever_is_given_as_an_address_is_taken_or_named(text: str) -> None:
    with contextlib.suppress(FieldError):
        assert check_url(text, "/settings/url").raw_host
