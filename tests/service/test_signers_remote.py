"""Keys that somebody else keeps: real boto3 against moto's KMS, and a real HTTP service with Web3Signer's API."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from coincurve import PrivateKey
from eth_account import Account

from portal.actions.service import create_signer, disable_signer, enable_signer
from portal.chain.queries import get_signer
from portal.chain.schemas import SignerView
from portal.chain.signers import (
    SignatureNotOurs,
    SignerNotActive,
    SignerUnavailable,
    TransactionFields,
    check_signers,
    make_pending_keys,
    service,
)
from portal.chain.signers.signatures import address_of
from portal.chain.tables import Signer, SignerKind
from portal.errors import Forbidden, InputInvalid
from tests.keepers import Kms, SigningService, given_settings, public_key_of, running_kms, sign
from tests.people import Cast

TO = "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
FIELDS = TransactionFields(31337, 7, TO, 3, b"\x12\x34", 50_000, 10**10, 10**9)
LEGACY = TransactionFields(56, 8, None, 0, b"\xfe", 10**6, 3 * 10**9, 3 * 10**9, is_legacy=True)
KEY = PrivateKey(b"\x42" * 32)


@pytest.fixture(autouse=True)
def fresh_process() -> Iterator[None]:
    """As if the worker had just started."""
    service._checked.clear()
    service._failed.clear()
    yield
    service._checked.clear()
    service._failed.clear()


@pytest.fixture(scope="module")
def kms() -> Iterator[Kms]:
    with running_kms() as running:
        yield running


@pytest_asyncio.fixture
async def signing() -> AsyncIterator[SigningService]:
    async with SigningService(KEY).running() as running:
        yield running


async def shown(cast: Cast, signer_id: UUID) -> SignerView:
    return await get_signer(cast.organization_id, signer_id)


async def add_kms(cast: Cast, key: str) -> UUID:
    return (await create_signer(cast.alice.actor, f"In KMS {uuid4()}", kind=SignerKind.AWS_KMS, kms_key=key)).id


async def add_service(cast: Cast, signing: SigningService, key: PrivateKey = KEY) -> UUID:
    made = await create_signer(
        cast.alice.actor,
        f"Elsewhere {uuid4()}",
        kind=SignerKind.WEB3SIGNER,
        service_url=signing.url + "/",
        public_key=public_key_of(key),
    )
    return made.id


def allowing(signing: SigningService) -> AbstractContextManager[Any]:
    return given_settings(web3signer_urls=f" https://other.example, {signing.url}/ ")


async def signs(cast: Cast, signer_id: UUID) -> None:
    address = (await shown(cast, signer_id)).address
    for fields in (FIELDS, LEGACY):
        signed = await sign(signer_id, fields)
        assert Account.recover_transaction(signed.raw) == address


# AWS KMS


@pytest.mark.parametrize("by", ["arn", "id", "alias"])
async def test_a_key_in_kms_is_adopted_and_signs(cast: Cast, kms: Kms, by: str) -> None:
    arn = kms.make_key()
    reference = {"arn": arn, "id": arn.rpartition("/")[2], "alias": f"alias/portal-{by}"}[by]
    if by == "alias":
        kms.client.create_alias(AliasName=reference, TargetKeyId=arn)
    with given_settings(kms_keys=f"other=nothing, acme={reference}"):
        signer_id = await add_kms(cast, reference)
        assert (await shown(cast, signer_id)).status == "pending"
        assert await make_pending_keys() == 1
        view = await shown(cast, signer_id)
        assert (view.status, view.kind, view.trouble) == ("active", "aws_kms", None)
        for _ in range(10):  # KMS signs with either s and either parity
            await signs(cast, signer_id)
        row = (await Signer.select().where(Signer.id == signer_id))[0]
        assert (row["encrypted_key"], row["key_reference"]) == (None, reference)


@pytest.mark.parametrize(
    ("allowed", "key", "said"),
    [
        ("", ("ECC_SECG_P256K1", "SIGN_VERIFY"), "PORTAL_KMS_KEYS does not allow this key"),
        ("other={}", ("ECC_SECG_P256K1", "SIGN_VERIFY"), "PORTAL_KMS_KEYS does not allow this key"),
        ("{}", ("ECC_NIST_P256", "SIGN_VERIFY"), "not one for signing of the kind ECC_SECG_P256K1"),
        ("{}", ("RSA_2048", "ENCRYPT_DECRYPT"), "AWS KMS"),
    ],
)
async def test_a_key_that_may_not_or_cannot_sign_stays_pending_and_says_why(
    cast: Cast, kms: Kms, allowed: str, key: tuple[str, str], said: str
) -> None:
    arn = kms.make_key(*key)
    with given_settings(kms_keys=allowed.format(arn)):
        signer_id = await add_kms(cast, arn)
        assert await make_pending_keys() == 0
        view = await shown(cast, signer_id)
        assert (view.status, view.address) == ("pending", None)
        assert said in (view.trouble or "")
        with pytest.raises(SignerNotActive):
            await sign(signer_id, FIELDS)


async def test_a_key_that_does_not_exist_is_refused_by_kms(cast: Cast, kms: Kms) -> None:
    wrong = kms.make_key()[:-6] + "000000"
    with given_settings(kms_keys=wrong):
        signer_id = await add_kms(cast, wrong)
        await make_pending_keys()
    assert "refuses: NotFoundException" in ((await shown(cast, signer_id)).trouble or "")


async def test_a_key_has_one_signer(cast: Cast, kms: Kms) -> None:
    arn = kms.make_key()
    with given_settings(kms_keys=arn):
        first, second = await add_kms(cast, arn), await add_kms(cast, arn)
        assert await make_pending_keys() == 1
        stati = sorted([(await shown(cast, id)).status for id in (first, second)])
        assert stati == ["active", "pending"]
        troubles = [(await shown(cast, id)).trouble for id in (first, second)]
        assert any(trouble and "Another signer has this key" in trouble for trouble in troubles)


async def test_another_key_behind_the_same_alias_is_noticed_at_the_next_start_and_signs_nothing(
    cast: Cast, kms: Kms
) -> None:
    first, second = kms.make_key(), kms.make_key()
    kms.client.create_alias(AliasName="alias/moved", TargetKeyId=first)
    with given_settings(kms_keys="alias/moved"):
        signer_id = await add_kms(cast, "alias/moved")
        await make_pending_keys()
        assert await check_signers() == 0
        kms.client.update_alias(AliasName="alias/moved", TargetKeyId=second)
        assert await check_signers() == 0, "it was checked once in this process"
        with pytest.raises(SignatureNotOurs):
            await sign(signer_id, FIELDS)
        service._checked.clear()
        service._failed.clear()
        assert await check_signers() == 1
        assert "another key than the one that was added" in ((await shown(cast, signer_id)).trouble or "")
        kms.client.update_alias(AliasName="alias/moved", TargetKeyId=first)
        assert await check_signers() == 1
        assert (await shown(cast, signer_id)).trouble is None
        await signs(cast, signer_id)


async def test_a_kms_that_is_away_holds_up_nothing_else_and_its_trouble_ends_by_itself(cast: Cast, kms: Kms) -> None:
    arn = kms.make_key()
    with given_settings(kms_keys=arn):
        signer_id = await add_kms(cast, arn)
        await make_pending_keys()
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
            service.aws_kms._client.cache_clear()
            with pytest.raises(SignerUnavailable, match="cannot be reached"):
                await sign(signer_id, FIELDS)
            await check_signers()
            assert "cannot be reached" in ((await shown(cast, signer_id)).trouble or "")
        service.aws_kms._client.cache_clear()
        assert await check_signers() == 1
        assert (await shown(cast, signer_id)).trouble is None
        await signs(cast, signer_id)


# A signing service


async def test_a_key_of_a_signing_service_is_adopted_and_signs(cast: Cast, signing: SigningService) -> None:
    with allowing(signing):
        signer_id = await add_service(cast, signing)
        assert await make_pending_keys() == 1
        view = await shown(cast, signer_id)
        assert (view.status, view.address) == ("active", address_of(KEY.public_key))
        await signs(cast, signer_id)
        await disable_signer(cast.alice.actor, signer_id)
        with pytest.raises(SignerNotActive):
            await sign(signer_id, FIELDS)
        await enable_signer(cast.alice.actor, signer_id)
        await signs(cast, signer_id)


async def test_only_addresses_that_the_worker_allows_are_asked(cast: Cast, signing: SigningService) -> None:
    for allowed in ("", "https://other.example", f"other={signing.url}", signing.url + "/api", signing.url[:-1]):
        with given_settings(web3signer_urls=allowed):
            signer_id = await add_service(cast, signing)
            await make_pending_keys()
            assert "PORTAL_WEB3SIGNER_URLS does not allow" in ((await shown(cast, signer_id)).trouble or "")
    assert signing.asked == []
    with allowing(signing):
        assert await make_pending_keys() == 1, "the first to be adopted has the key"
    [active] = await Signer.select(Signer.id).where(Signer.status == "active")
    asked = len(signing.asked)
    with given_settings(web3signer_urls=""), pytest.raises(SignerUnavailable, match="does not allow"):
        await sign(active["id"], FIELDS)
    assert len(signing.asked) == asked


async def test_a_key_that_the_service_does_not_have(cast: Cast, signing: SigningService) -> None:
    with allowing(signing):
        signer_id = await add_service(cast, signing, PrivateKey(b"\x43" * 32))
        assert await make_pending_keys() == 0
        assert "does not have this key" in ((await shown(cast, signer_id)).trouble or "")
        signing.keys[public_key_of(PrivateKey(b"\x43" * 32))] = PrivateKey(b"\x43" * 32)
        assert await make_pending_keys() == 1
        assert (await shown(cast, signer_id)).trouble is None


@pytest.mark.parametrize(
    ("fault", "raised", "said"),
    [
        ("fails", SignerUnavailable, "HTTP status 500"),
        ("hangs up", SignerUnavailable, "cannot be reached"),
        ("redirects", SignerUnavailable, "HTTP status 307"),
        ("nonsense", SignerUnavailable, "something else than a signature"),
        ("endless", SignerUnavailable, "more than is read"),
        ("another key", SignatureNotOurs, "does not come from the key"),
        ("another payload", SignatureNotOurs, "does not come from the key"),
    ],
)
async def test_what_a_service_does_wrong_is_no_signature_and_ends_by_itself(
    cast: Cast, signing: SigningService, fault: str, raised: type[Exception], said: str
) -> None:
    with allowing(signing):
        signer_id = await add_service(cast, signing)
        await make_pending_keys()
        signing.fault = fault
        with pytest.raises(raised, match=said):
            await sign(signer_id, FIELDS)
        assert await check_signers() == 1
        trouble = (await shown(cast, signer_id)).trouble or ""
        assert trouble
        assert signing.url not in trouble
        assert await check_signers() == 0, "said once"
        signing.fault = None
        assert await check_signers() == 1
        assert (await shown(cast, signer_id)).trouble is None
        await signs(cast, signer_id)
    assert not any("elsewhere" in path for _, path in signing.asked)


async def test_a_service_that_hangs_is_given_up_in_time(
    cast: Cast, signing: SigningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.web3signer, "SIGN_SECONDS", 0.3)
    with allowing(signing):
        signer_id = await add_service(cast, signing)
        await make_pending_keys()
        signing.fault = "hangs"
        started = time.monotonic()
        with pytest.raises(SignerUnavailable, match="did not answer"):
            await sign(signer_id, FIELDS)
        assert time.monotonic() - started < 3


async def test_two_workers_adopt_a_key_once(cast: Cast, signing: SigningService) -> None:
    with allowing(signing):
        await add_service(cast, signing)
        assert sum(await asyncio.gather(*(make_pending_keys() for _ in range(4)))) == 1


# What people give


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({"kind": SignerKind.AWS_KMS}, "/kms_key"),
        ({"kind": SignerKind.AWS_KMS, "kms_key": "acme=x"}, "/kms_key"),
        ({"kind": SignerKind.AWS_KMS, "kms_key": "a,b"}, "/kms_key"),
        ({"kind": SignerKind.WEB3SIGNER, "public_key": public_key_of(KEY)}, "/service_url"),
        ({"kind": SignerKind.WEB3SIGNER, "public_key": public_key_of(KEY), "service_url": "ftp://x"}, "/service_url"),
        (
            {"kind": SignerKind.WEB3SIGNER, "public_key": public_key_of(KEY), "service_url": "https://u:p@x"},
            "/service_url",
        ),
        (
            {"kind": SignerKind.WEB3SIGNER, "public_key": public_key_of(KEY), "service_url": "https://x/?a=b"},
            "/service_url",
        ),
        ({"kind": SignerKind.WEB3SIGNER, "service_url": "https://x"}, "/public_key"),
        ({"kind": SignerKind.WEB3SIGNER, "service_url": "https://x", "public_key": "0x" + "00" * 64}, "/public_key"),
        ({"kind": SignerKind.WEB3SIGNER, "service_url": "https://x", "public_key": "0x" + TO[2:]}, "/public_key"),
    ],
)
async def test_what_cannot_be_a_key_is_said_at_its_field(cast: Cast, given: dict[str, Any], path: str) -> None:
    with pytest.raises(InputInvalid) as error:
        await create_signer(cast.alice.actor, "Remote", **given)
    assert [field.path for field in error.value.fields] == [path]


@pytest.mark.parametrize("who", [lambda cast: cast.oscar, lambda cast: cast.bob, lambda cast: cast.carol])
async def test_only_those_who_administer_add_keys(cast: Cast, who: Callable[[Cast], Any]) -> None:
    with pytest.raises(Forbidden):
        await create_signer(who(cast).actor, "Remote", kind=SignerKind.AWS_KMS, kms_key="alias/x")
