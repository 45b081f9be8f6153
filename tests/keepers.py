"""Keepers of keys for tests: AWS KMS as moto serves it, and a signing service that implements Web3Signer's eth1 API."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any
from unittest.mock import patch
from uuid import UUID

import boto3
import werkzeug.serving
from aiohttp import web
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from eth_utils.crypto import keccak
from moto.kms.responses import KmsResponse
from moto.kms.utils import ECDSAPrivateKey
from moto.server import ThreadedMotoServer

from portal.chain import signers
from portal.chain.signers import SignedTransaction, TransactionFields, aws_kms, load_signers, local, web3signer
from portal.settings import Settings, get_settings

REGION = "eu-west-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": REGION}


@contextmanager
def given_settings(**changes: Any) -> Iterator[Settings]:
    """Settings of the worker in which some are changed, as the signers' room reads them."""
    changed = get_settings().model_copy(update=changes)
    with ExitStack() as stack:
        for module in (aws_kms, local, web3signer):
            stack.enter_context(patch.object(module, "get_settings", lambda: changed))
        yield changed


async def sign(signer_id: UUID, fields: TransactionFields) -> SignedTransaction:
    """What this signer signs now. Raises what `signers.sign` raises."""
    return await signers.sign((await load_signers([signer_id]))[signer_id], fields)


class Kms:
    """A running AWS KMS of its own; the worker's client reaches it by the usual AWS environment."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = boto3.client(
            "kms", endpoint_url=url, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
        )

    def make_key(self, spec: Any = "ECC_SECG_P256K1", usage: Any = "SIGN_VERIFY") -> str:
        """The ARN of a new key."""
        return str(self.client.create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]["Arn"])


@contextmanager
def signing_digests() -> Iterator[None]:
    """As AWS does with MessageType DIGEST, and moto not yet: it would hash the digest once more."""
    as_raw = KmsResponse.sign

    def prehashed(key: ECDSAPrivateKey, message: bytes, algorithm: str) -> bytes:
        assert (len(message), algorithm) == (32, "ECDSA_SHA_256")
        return key.private_key.sign(message, ec.ECDSA(Prehashed(SHA256())))

    def sign(response: KmsResponse) -> str:
        if response._get_param("MessageType") != "DIGEST":
            return as_raw(response)
        with patch.object(ECDSAPrivateKey, "sign", prehashed):
            return as_raw(response)

    with patch.object(KmsResponse, "sign", sign):
        yield


@contextmanager
def running_kms() -> Iterator[Kms]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    quiet = patch.object(werkzeug.serving.WSGIRequestHandler, "log", lambda *_: None)
    with quiet, signing_digests(), patch.dict("os.environ", {**CREDENTIALS, "AWS_ENDPOINT_URL_KMS": url}):
        aws_kms._client.cache_clear()
        try:
            yield Kms(url)
        finally:
            aws_kms._client.cache_clear()
            server.stop()


class SigningService:
    """What Web3Signer's OpenAPI document (eth1) says, with real keys; `fault` bends the next answers."""

    def __init__(self, *keys: PrivateKey) -> None:
        self.keys = {public_key_of(key): key for key in keys}
        self.fault: str | None = None
        self.asked: list[tuple[str, str]] = []
        self.url = ""

    async def list_keys(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        return await self._answer(request, web.json_response(list(self.keys)))

    async def sign(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.method, request.path))
        key = self.keys.get("0x" + request.match_info["identifier"].removeprefix("0x"))
        body = await request.json()
        if key is None:
            return web.Response(status=404)
        if not re.fullmatch(r"0x([0-9a-f]{2})*", body.get("data", "")):
            return web.Response(status=400)
        if self.fault == "another key":
            key = PrivateKey(b"\x77" * 32)
        data = bytes.fromhex(body["data"][2:]) + (b"\x00" if self.fault == "another payload" else b"")
        signature = key.sign_recoverable(keccak(data), hasher=None)
        text = "0x" + signature[:64].hex() + bytes([27 + signature[64]]).hex()
        return await self._answer(request, web.Response(text=text, content_type="text/plain"))

    async def _answer(self, request: web.Request, plain: web.Response) -> web.StreamResponse:
        if self.fault == "hangs":
            await asyncio.sleep(60)
        if self.fault == "hangs up":
            assert request.transport
            request.transport.close()
        if self.fault == "fails":
            return web.Response(status=500, text="boom")
        if self.fault == "redirects":
            return web.Response(status=307, headers={"location": f"{self.url}/elsewhere"})
        if self.fault == "nonsense":
            return web.Response(text="<html>hello</html>")
        if self.fault == "endless":
            return web.Response(body=b"0" * (3 * 2**20))
        return plain

    @asynccontextmanager
    async def running(self) -> AsyncIterator["SigningService"]:
        app = web.Application()
        app.router.add_get("/api/v1/eth1/publicKeys", self.list_keys)
        app.router.add_post("/api/v1/eth1/sign/{identifier}", self.sign)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server: Any = site._server
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            await runner.cleanup()


def public_key_of(key: PrivateKey) -> str:
    """As Web3Signer names its keys: the point without its prefix."""
    return "0x" + key.public_key.format(compressed=False)[1:].hex()
