"""All settings, read once from the environment, typed and validated.

Each is `PORTAL_<NAME>`; `PORTAL_<NAME>_FILE` names a file that holds the value (for secrets). The README lists them.
"""

import base64
import ipaddress
import os
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator

from portal.errors import SettingInvalid

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "PORTAL_"
DATABASE_SCHEMES = ("postgresql", "postgres")
QUEUE_SCHEMES = ("redis", "rediss")


class Settings(BaseModel):
    """What every process of the portal reads. Production has no default for the database and the keys."""

    model_config = {"frozen": True, "extra": "forbid"}

    host: Annotated[str, Field(description="Address the web process listens on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="Port the web process listens on.")] = 8000
    data: Annotated[Path, Field(description="Folder of `portal up`: database, chain, keys, logs.")] = Path("var")
    base_url: Annotated[
        str | None, Field(description="Public address of the portal, for links; `http://HOST:PORT` if unset.")
    ] = None
    database_url: Annotated[
        str,
        Field(description="PostgreSQL 15 to 18, `postgresql://user:password@host/name`. `portal up` brings its own."),
    ] = ""
    queue_url: Annotated[
        str | None, Field(description="Queue of jobs: `postgresql://...` or `redis://...`; the database if unset.")
    ] = None
    chain_rpc_urls: Annotated[
        str, Field(description="Nodes by chain id, `31337=http://127.0.0.1:8545,1=https://...`; an id may repeat.")
    ] = ""
    secret_key: Annotated[
        str | None, Field(description="32 random bytes in base64: encrypts sources' secrets and second factors.")
    ] = None
    signer_key: Annotated[
        str | None,
        Field(description="32 random bytes in base64: encrypts signers' keys. The worker only, never the web process."),
    ] = None
    signer_key_previous: Annotated[
        str | None,
        Field(description="The `PORTAL_SIGNER_KEY` before this one, while the worker encrypts anew what it encrypts."),
    ] = None
    kms_keys: Annotated[
        str,
        Field(
            description="AWS KMS keys that signers may use, comma-separated: ids, ARNs or aliases; `slug=key` allows "
            "one to one organisation. The worker only."
        ),
    ] = ""
    web3signer_urls: Annotated[
        str,
        Field(
            description="Signing services that signers may use, comma-separated: `https://signer.example.org:9000`; "
            "`slug=https://...` allows one to one organisation. The worker only."
        ),
    ] = ""
    trusted_proxies: Annotated[
        str,
        Field(description="Addresses or networks, comma-separated, of proxies whose `X-Forwarded-For` is believed."),
    ] = ""
    egress_allow: Annotated[
        str,
        Field(
            description="Networks, comma-separated, in which pull sources and webhooks may reach systems of your own."
        ),
    ] = ""
    database_pool_size: Annotated[
        int,
        Field(ge=2, le=200, description="Most connections in one process's pool; it keeps a few besides for itself."),
    ] = 16
    log_level: Annotated[
        str, Field(pattern="^(?i:debug|info|warning|error)$", description="Least level that is logged.")
    ] = "info"
    metrics_token: Annotated[
        str | None, Field(description="Bearer token for `/metrics`; if unset only this machine may read it.")
    ] = None

    worker_metrics_port: Annotated[
        int | None,
        Field(ge=1, le=65535, description="Port on which the worker serves its own `/metrics`; none if unset."),
    ] = None

    @field_validator("secret_key", "signer_key", "signer_key_previous")
    @classmethod
    def _is_a_key(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            if len(base64.b64decode(value, validate=True)) == 32:
                return value
        except ValueError:
            pass
        raise ValueError("it must be 32 bytes in base64; make one with `openssl rand -base64 32`")

    @field_validator("database_url", "queue_url")
    @classmethod
    def _is_an_address(cls, value: str | None, field: ValidationInfo) -> str | None:
        schemes = DATABASE_SCHEMES if field.field_name == "database_url" else DATABASE_SCHEMES + QUEUE_SCHEMES
        if value and urlsplit(value).scheme not in schemes:
            raise ValueError(f"it must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_a_web_address(cls, value: str | None) -> str | None:
        if value is not None and not (urlsplit(value).scheme in ("http", "https") and urlsplit(value).hostname):
            raise ValueError("it must be of the form https://portal.example.org")
        return value

    @field_validator("chain_rpc_urls")
    @classmethod
    def _are_nodes(cls, value: str) -> str:
        parse_rpc_urls(value)
        return value

    @field_validator("trusted_proxies", "egress_allow")
    @classmethod
    def _are_networks(cls, value: str) -> str:
        for part in filter(None, (part.strip() for part in value.split(","))):
            try:
                ipaddress.ip_network(part)
            except ValueError:
                raise ValueError(f"{part!r} is no address or network such as 10.0.0.5 or 10.0.0.0/8") from None
        return value

    @property
    def public_url(self) -> str:
        return (self.base_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def rpc_urls(self) -> dict[int, list[str]]:
        """RPC addresses by chain id, in the order of preference."""
        return parse_rpc_urls(self.chain_rpc_urls)

    def require(self, *names: str) -> None:
        """Raise `SettingInvalid` for the first of `names` that is not set."""
        for name in names:
            if not getattr(self, name):
                raise SettingInvalid(f"{PREFIX}{name.upper()} is not set. {Settings.model_fields[name].description}")


def parse_rpc_urls(value: str) -> dict[int, list[str]]:
    """`id=url` pairs, comma-separated, to addresses by chain id. Raises `ValueError` with a readable reason."""
    urls: dict[int, list[str]] = {}
    for place, pair in enumerate(filter(None, (part.strip() for part in value.split(","))), start=1):
        chain, _, url = pair.partition("=")
        if not chain.isdecimal() or urlsplit(url).scheme not in ("http", "https"):
            # Not shown: a node's address often carries a key.
            raise ValueError(f"entry {place} is not of the form 31337=http://127.0.0.1:8545")
        urls.setdefault(int(chain), []).append(url)
    return urls


def read_settings(environment: dict[str, str], **given: Any) -> Settings:
    """Settings from `environment`, with `given` (a command's options that are not None) before it.

    Raises `SettingInvalid` naming the setting, what is wrong with it, and never its value.
    """
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        variable = PREFIX + name.upper()
        if file := environment.get(f"{variable}_FILE"):
            try:
                values[name] = Path(file).read_text().strip()
            except OSError as error:
                raise SettingInvalid(
                    f"{variable}_FILE names {file}, which cannot be read: {error.strerror}."
                ) from error
        elif environment.get(variable):
            values[name] = environment[variable]
    values.update({name: value for name, value in given.items() if value is not None})
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        reason = first["msg"].removeprefix("Value error, ")
        raise SettingInvalid(f"{PREFIX}{name.upper()}: {reason}.") from None


@cache
def get_settings() -> Settings:
    """The settings of this process, read on first use."""
    return read_settings(dict(os.environ))


def secret_key() -> str:
    """The key that seals what is secret but signers' keys. Raises `SettingInvalid` in a process without it."""
    settings = get_settings()
    settings.require("secret_key")
    assert settings.secret_key is not None
    return settings.secret_key
