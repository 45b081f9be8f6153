"""What the quickstart makes: its secrets, its answer, and how that is shown."""

import secrets
from uuid import UUID, uuid4

import click
import msgspec
import pyotp
from rich.console import Console

from portal import clock
from portal.accounts.permissions import Role
from portal.accounts.totp import new_secret

CAST = (("Ada Park", "ada", Role.OWNER), ("Ben Okafor", "ben", Role.APPROVER))


class ExampleMember(msgspec.Struct):
    email: str
    password: str
    totp_secret: str
    role: Role


class Secrets(msgspec.Struct):
    """What the quickstart chooses, kept before it is used."""

    members: list[ExampleMember]
    source_secret: str
    delivery_id: str
    api_key: str | None = None


class Named(msgspec.Struct):
    id: UUID
    slug: str


class Addressed(msgspec.Struct):
    id: UUID
    address: str


class ExampleSource(msgspec.Struct):
    id: UUID
    url: str
    scheme: str
    secret: str


class Identified(msgspec.Struct):
    id: UUID


class LocalNode(msgspec.Struct):
    id: int
    rpc_url: str


class Example(msgspec.Struct):
    """What was made, and all that is needed to use it."""

    base_url: str
    organization: Named
    members: list[ExampleMember]
    api_key: str
    source: ExampleSource
    rule: Identified
    contract: Addressed
    signer: Addressed
    chain: LocalNode
    signal_id: UUID


def choose_secrets(slug: str) -> Secrets:
    """New secrets for the people, the source and the first delivery of an example."""
    return Secrets(
        members=[
            ExampleMember(f"{login}@{slug}.example", secrets.token_urlsafe(15), new_secret(), role)
            for _, login, role in CAST
        ],
        source_secret=secrets.token_urlsafe(32),
        delivery_id=str(uuid4()),
    )


def show_example(example: Example, *, as_json: bool) -> None:
    """Print it as one JSON object, or as what a person needs next."""
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(example)).decode())
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print("Sign in as one of these; add the secret to an authenticator app, or use the code of this moment:")
    for member in example.members:
        code = pyotp.TOTP(member.totp_secret).at(clock.now())
        console.print(f"  [bold]{member.email}[/] ({member.role}), password {member.password}")
        console.print(f"    second factor: secret {member.totp_secret}, code now {code}")
    home = f"{example.base_url}/orgs/{example.organization.slug}"
    console.print(f"Inbox        {home}/inbox")
    console.print(f"The signal   {home}/signals/{example.signal_id}")
    console.print(f"Send more to {example.source.url}")
    console.print(f"Signed with  {example.source.secret}")
    console.print(f"API key      {example.api_key}")
