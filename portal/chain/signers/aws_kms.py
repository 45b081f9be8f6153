"""Keys that AWS KMS keeps: asymmetric, of the curve secp256k1, for signing. The key never leaves it.

Region and credentials come from the worker's environment in AWS's usual ways. The worker's setting PORTAL_KMS_KEYS says
which keys may be used: naming a key gives an organisation's administrator none of the worker's other rights.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Final, TypeVar

from eth_utils.crypto import keccak

from portal.chain.signers.keepers import SIGN_SECONDS, is_allowed, refuse
from portal.chain.signers.signatures import Signature, address_of, complete, from_der, read_der_public_key
from portal.settings import get_settings

if TYPE_CHECKING:
    from types_boto3_kms import KMSClient

T = TypeVar("T")
SPEC = "ECC_SECG_P256K1"
ALGORITHM: Final = "ECDSA_SHA_256"
"""The name of the only one of this curve; with MessageType DIGEST nothing is hashed, so ours may be a Keccak-256."""
THREADS = ThreadPoolExecutor(16, thread_name_prefix="kms")
"""Of their own: calls that hang must not use up the threads of everybody."""
WHAT = "AWS KMS"


async def read_address(reference: str, organization: str) -> str:
    """The EIP-55 address of the key with this id, ARN or alias. Raises `SignerUnavailable`."""
    answer = await _ask(reference, organization, lambda client: client.get_public_key(KeyId=reference))
    if answer.get("KeySpec", answer.get("CustomerMasterKeySpec")) != SPEC or answer["KeyUsage"] != "SIGN_VERIFY":
        refuse(WHAT, f"says that the key is not one for signing of the kind {SPEC}.")
    try:
        return address_of(read_der_public_key(answer["PublicKey"]))
    except ValueError:
        refuse(WHAT, "answers with a public key that cannot be read.")


async def sign_payload(reference: str, organization: str, address: str, payload: bytes) -> Signature:
    """Sign the Keccak-256 of `payload`. Raises `SignerUnavailable`, `SignatureNotOurs` for another's key."""
    digest = keccak(payload)
    answer = await _ask(
        reference,
        organization,
        lambda client: client.sign(KeyId=reference, Message=digest, MessageType="DIGEST", SigningAlgorithm=ALGORITHM),
    )
    return complete(digest, *from_der(answer["Signature"]), address)


async def _ask(reference: str, organization: str, question: "Callable[[KMSClient], T]") -> T:
    if not is_allowed(reference, organization, get_settings().kms_keys):
        refuse(WHAT, "was not asked: the worker's setting PORTAL_KMS_KEYS does not allow this key.")
    try:
        async with asyncio.timeout(SIGN_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(
                THREADS, lambda: question(_client(_region(reference)))
            )
    except TimeoutError:
        refuse(WHAT, f"did not answer within {SIGN_SECONDS} seconds.")
    except Exception as error:
        # boto3 makes its classes of errors at run time; what is no answer to us is one to it.
        refuse(WHAT, _said(error))


def _said(error: Exception) -> str:
    from botocore.exceptions import ClientError, NoCredentialsError, NoRegionError  # noqa: PLC0415 (see `_client`)

    if isinstance(error, ClientError):
        return f"refuses: {error.response.get('Error', {}).get('Code', 'unknown reason')}."
    if isinstance(error, NoCredentialsError | NoRegionError):
        return "cannot be asked: the worker has no AWS credentials or region."
    return "cannot be reached."


def _region(reference: str) -> str | None:
    """Of an ARN; None leaves it to the environment."""
    return reference.split(":")[3] if reference.startswith("arn:") and reference.count(":") >= 5 else None


@cache
def _client(region: str | None) -> "KMSClient":
    """Safe to use from several threads. One try: the engine tries again, and must know in time."""
    # Takes half a second and 35 MB, which only a worker with such keys should pay.
    import boto3  # noqa: PLC0415
    from botocore.config import Config  # noqa: PLC0415

    patience = Config(
        connect_timeout=2, read_timeout=SIGN_SECONDS - 1, retries={"total_max_attempts": 1}, max_pool_connections=16
    )
    return boto3.client("kms", region_name=region, config=patience)
