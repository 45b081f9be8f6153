"""One-time codes against the RFC's own vectors, and the picture that an app scans."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit
from uuid import uuid4
from xml.etree import ElementTree

import pyotp
import pytest

from portal.accounts.totp import matching_step, new_secret, provisioning_uri, qr_svg, seal_secret, unseal_secret
from portal.sealing import SealBroken

RFC_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
"""`12345678901234567890` of RFC 6238, appendix B, in base32; its codes there have eight digits, ours the last six."""


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037")],
)
def test_the_vectors_of_the_rfc(seconds: int, code: str) -> None:
    assert matching_step(RFC_SECRET, code, datetime.fromtimestamp(seconds, UTC)) == seconds // 30


@pytest.mark.parametrize(("steps", "accepted"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_clock_may_be_off_by_one_step_and_no_more(steps: int, accepted: bool) -> None:
    at = datetime(2026, 5, 3, 9, 30, 15, tzinfo=UTC)
    code = pyotp.TOTP(RFC_SECRET).at(at + timedelta(seconds=30 * steps))
    assert matching_step(RFC_SECRET, code, at) == (int(at.timestamp()) // 30 + steps if accepted else None)


def test_a_code_may_be_typed_as_the_app_shows_it() -> None:
    assert matching_step(RFC_SECRET, "287 082", datetime.fromtimestamp(59, UTC)) == 1


@pytest.mark.parametrize("code", ["", "28708", "2870820", "abcdef", "२८७०८२", "287082\n", "-87082", "\x00" * 6])
def test_what_is_no_code(code: str) -> None:
    assert matching_step(RFC_SECRET, code, datetime.fromtimestamp(59, UTC)) is None


def test_secrets_have_160_bits_and_differ() -> None:
    assert len({new_secret() for _ in range(50)}) == 50
    assert len(new_secret()) == 32


def test_an_app_reads_the_address() -> None:
    uri = urlsplit(provisioning_uri(RFC_SECRET, "ada@example.org"))
    assert (uri.scheme, uri.netloc) == ("otpauth", "totp")
    assert unquote(uri.path) == "/Signal Portal:ada@example.org"
    assert parse_qs(uri.query)["secret"] == [RFC_SECRET]
    assert parse_qs(uri.query)["issuer"] == ["Signal Portal"]


def test_the_picture_passes_a_strict_content_security_policy() -> None:
    svg = ElementTree.fromstring(qr_svg(provisioning_uri(RFC_SECRET, "ada@example.org")))
    assert svg.tag.endswith("svg")
    for element in svg.iter():
        assert not element.tag.endswith(("style", "script", "image", "use"))
        assert not any(name == "style" or name.startswith("on") for name in element.attrib)


def test_a_sealed_secret_opens_for_its_person_only() -> None:
    ada, bob, secret = uuid4(), uuid4(), new_secret()
    sealed = seal_secret(ada, secret)
    assert secret.encode() not in sealed
    assert unseal_secret(ada, sealed) == secret
    with pytest.raises(SealBroken):
        unseal_secret(bob, sealed)
