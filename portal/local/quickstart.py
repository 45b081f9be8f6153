"""`portal quickstart`: an example organisation on a local chain, made through the ordinary services, once.

What it will use as secrets is written down before it is used, so that a run that was interrupted goes on where it
stopped, and a later run prints the same again.
"""

import asyncio
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar
from uuid import UUID

import msgspec
import pyotp

from portal import clock
from portal.accounts import queries as accounts
from portal.accounts import service as account_service
from portal.accounts.api_keys import create_api_key
from portal.accounts.people import slug_of
from portal.accounts.permissions import SCOPES
from portal.accounts.proofs import SecondFactorInvalid
from portal.accounts.schemas import Actor, OrganizationView, command_actor
from portal.actions import queries as actions
from portal.actions import service as action_service
from portal.actions.schemas import ActionView, DeploymentInput, PolicyInput
from portal.actions.tables import ActionStatus
from portal.chain import queries as chains
from portal.chain.schemas import ContractView, SignerView
from portal.chain.tables import ContractStatus, SignerStatus
from portal.db.engine import advisory_lock
from portal.errors import Conflict, PortalError, SettingInvalid
from portal.jobs.queue import make_queue, open_doorbell
from portal.local.chain import NoAnswer, ask_node
from portal.local.example import (
    CAST,
    Addressed,
    Example,
    ExampleMember,
    ExampleSource,
    Identified,
    LocalNode,
    Named,
    Secrets,
    choose_secrets,
)
from portal.local.folder import write_private
from portal.local.supervisor import answers
from portal.rules import queries as rules
from portal.rules import service as rule_service
from portal.rules.schemas import RuleInput
from portal.rules.tables import RuleStatus
from portal.settings import get_settings
from portal.signals import queries as signals
from portal.signals import service as signal_service
from portal.signals.schemas import SourceInput

WAIT_SECONDS = 60.0
POLL_SECONDS = 0.2
FUNDS_WEI = 100 * 10**18
SPONSORSHIP = {
    "action": "created",
    "sponsorship": {
        "created_at": "2026-01-01T00:00:00Z",
        "sponsor": {"login": "mona", "id": 2, "type": "User"},
        "tier": {"name": "$25 a month", "monthly_price_in_dollars": 25, "monthly_price_in_cents": 2500},
    },
    "sender": {"login": "mona", "id": 2, "type": "User"},
}

T = TypeVar("T")


class HasName(Protocol):
    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=HasName)


class NotOnLocalChain(SettingInvalid):
    title = "The quickstart is for a local chain only"


class PortalNotRunning(PortalError):
    title = "The portal does not run"


async def make_example(name: str, approvals: int) -> Example:
    """Make the example organisation `name`, or find it as it was made; `approvals` of 0 makes them automatic.

    Raises `NotOnLocalChain`, `PortalNotRunning`, `Conflict` if somebody else made an organisation of that name.
    """
    node = await _find_local_node()
    base_url = get_settings().public_url
    if not await asyncio.to_thread(answers, f"{base_url}/health/ready"):
        raise PortalNotRunning(f"No portal answers at {base_url}; start it with `portal up`, then try again.")
    # `portal up --quickstart` may still be making it: the second one waits, and finds it made.
    async with advisory_lock("portal-quickstart"):
        return await _make_or_find(name, approvals, node, base_url)


async def _make_or_find(name: str, approvals: int, node: LocalNode, base_url: str) -> Example:
    slug = slug_of(name)
    file = get_settings().data / f"quickstart-{slug}.json"
    found = await accounts.find_organization(slug)
    if file.exists():
        kept = msgspec.json.decode(file.read_bytes(), type=Secrets)
    elif found:
        raise Conflict(f"There is an organisation {slug!r} that the quickstart did not make; choose another name.")
    else:
        kept = choose_secrets(slug)
    file.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        write_private(file, msgspec.json.format(msgspec.json.encode(kept)).decode())

    keep()
    organization = found or await account_service.create_organization(name, slug)
    async with _doorbell():
        return await _Making(organization, kept, keep, node=node, base_url=base_url, approvals=approvals).run()


class _Making:
    """Each step finds what an earlier run made, by its name, or makes it."""

    def __init__(
        self,
        organization: OrganizationView,
        kept: Secrets,
        keep: Callable[[], None],
        *,
        node: LocalNode,
        base_url: str,
        approvals: int,
    ) -> None:
        self.organization = organization
        self.kept = kept
        self.keep = keep
        self.node = node
        self.base_url = base_url
        self.approvals = approvals
        self.actor = command_actor(organization.id)

    async def run(self) -> Example:
        await self._add_members()
        signer = await self._make_signer()
        policy_id = await self._make_policy()
        contract = await self._deploy(signer, policy_id)
        source_id = await self._make_source()
        rule_id = await self._make_rule(source_id, contract, policy_id)
        if self.kept.api_key is None:
            _, self.kept.api_key = await create_api_key(self.actor, "Quickstart", sorted(SCOPES))
            self.keep()
        url = f"{self.base_url}/api/v1/sources/{source_id}/signals"
        signal_id = await asyncio.to_thread(deliver, url, self.kept.source_secret, self.kept.delivery_id, SPONSORSHIP)
        return Example(
            base_url=self.base_url,
            organization=Named(self.organization.id, self.organization.slug),
            members=self.kept.members,
            api_key=self.kept.api_key,
            source=ExampleSource(source_id, url, "github", self.kept.source_secret),
            rule=Identified(rule_id),
            contract=Addressed(contract.id, contract.address or ""),
            signer=Addressed(signer.id, signer.address or ""),
            chain=self.node,
            signal_id=signal_id,
        )

    async def _add_members(self) -> None:
        there = {member.email for member in (await accounts.list_members(self.organization.id)).items}
        for member, (name, _, role) in zip(self.kept.members, CAST, strict=True):
            if member.email not in there:
                await account_service.add_member(
                    self.actor, member.email, name, member.password, role, totp_secret=member.totp_secret
                )

    async def _make_signer(self) -> SignerView:
        name = "Treasury"
        made = named((await chains.list_signers(self.organization.id)).items, name)
        signer_id = (made or await action_service.create_signer(self.actor, name)).id

        async def active() -> SignerView | None:
            signer = await chains.get_signer(self.organization.id, signer_id)
            return signer if signer.status == SignerStatus.ACTIVE else None

        signer = await until(active, "The worker does not make the signer's key: does `portal worker` run?")
        await self._fund(str(signer.address))
        return signer

    async def _fund(self, address: str) -> None:
        url = self.node.rpc_url
        try:
            if int(await asyncio.to_thread(ask_node, url, "eth_getBalance", address, "latest"), 16) < FUNDS_WEI // 2:
                await asyncio.to_thread(ask_node, url, "anvil_setBalance", address, hex(FUNDS_WEI))
        except NoAnswer as error:
            raise NotOnLocalChain(
                f"The node {url} does not let us set a balance ({error}); it must be anvil."
            ) from error

    async def _make_policy(self) -> UUID:
        name = "Two approvals" if self.approvals == 2 else "One approval" if self.approvals else "Automatic"
        made = named((await actions.list_policies(self.organization.id)).items, name)
        given = PolicyInput(name=name, approvals_required=self.approvals)
        return (made or await action_service.create_policy(self.actor, given)).id

    async def _deploy(self, signer: SignerView, policy_id: UUID) -> ContractView:
        name = f"{self.organization.name[:18]} Points"
        contract = named((await chains.list_contracts(self.organization.id)).items, name)
        if contract is None:
            given = DeploymentInput(
                name=name,
                template="points",
                chain_id=self.node.id,
                signer_id=signer.id,
                policy_id=policy_id,
                arguments={"name": name, "symbol": "PTS"},
            )
            action = await action_service.propose_deployment(self.actor, given)
        else:
            action = (await actions.list_actions(self.organization.id, contract_id=contract.id)).items[-1]
        await self._approve(action)

        async def deployed() -> ContractView | None:
            contract = await chains.get_contract(self.organization.id, action.contract_id)
            if contract.status == ContractStatus.FAILED:
                raise Conflict(f"The contract {name} could not be deployed; its action says why.")
            return contract if contract.status == ContractStatus.ACTIVE else None

        return await until(deployed, f"The deployment of {name} is not confirmed: do the worker and the chain run?")

    async def _approve(self, action: ActionView) -> None:
        """Approve the deployment as both members, who give their second factor for it."""
        decided = {decision.email for decision in action.approvals}
        for member in self.kept.members:
            action = await actions.get_action(self.organization.id, action.id)
            if action.status == ActionStatus.PROPOSED and self.approvals and member.email not in decided:
                await approve_as(await self._member_actor(member), member.totp_secret, action)

    async def _member_actor(self, member: ExampleMember) -> Actor:
        person = await accounts.find_person(member.email)
        assert person, "the member was added before"
        return await accounts.get_actor(person.id, self.organization.slug)

    async def _make_source(self) -> UUID:
        name = "GitHub Sponsors"
        made = named((await signals.list_sources(self.organization.id)).items, name)
        if made:
            return made.id
        given = SourceInput(name=name, scheme="github", secret=self.kept.source_secret)
        source, _ = await signal_service.create_source(self.actor, given)
        return source.id

    async def _make_rule(self, source_id: UUID, contract: ContractView, policy_id: UUID) -> UUID:
        name = "Points for sponsors"
        rule = named((await rules.list_rules(self.organization.id)).items, name)
        if rule is None:
            given = RuleInput(
                name=name,
                source_id=source_id,
                condition='signal.type == "sponsorship"',
                subject='{"id": "github:" + payload.sponsorship.sponsor.login, '
                '"name": payload.sponsorship.sponsor.login}',
                contract_id=contract.id,
                function="mint(address,uint256)",
                arguments={
                    "to": "subject.address",
                    "amount": "units(payload.sponsorship.tier.monthly_price_in_dollars, 18)",
                },
                policy_id=policy_id,
            )
            rule = await rule_service.create_rule(self.actor, given)
        if rule.status == RuleStatus.DRAFT:
            await rule_service.publish_rule(self.actor, rule.id)
        return rule.id


def named(items: Iterable[N], name: str) -> N | None:
    """The one of `items` that has `name`."""
    return next((item for item in items if item.name == name), None)


async def until(look: Callable[[], Awaitable[T | None]], otherwise: str) -> T:
    """What `look` finds, once it does. Raises `PortalNotRunning` with `otherwise` after a minute."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (found := await look()) is None:
        if time.monotonic() > deadline:
            raise PortalNotRunning(otherwise)
        await asyncio.sleep(POLL_SECONDS)
    return found


async def approve_as(actor: Actor, totp_secret: str, action: ActionView) -> None:
    """Approve with the code of the time step before, so that the member's code of this moment stays unused."""
    for last_try in (False, True):
        try:
            await action_service.approve(
                actor, action.id, action.digest, pyotp.TOTP(totp_secret).at(clock.now(), counter_offset=-1)
            )
        except SecondFactorInvalid:  # a time step ended in between
            if last_try:
                raise
        else:
            return


def deliver(url: str, secret: str, delivery_id: str, payload: dict[str, Any]) -> UUID:
    """Send one delivery as GitHub would; the id of its signal. Raises `PortalNotRunning` if it is not accepted."""
    body = json.dumps(payload).encode()
    headers = {
        "Content-Type": "application/json",
        "X-GitHub-Event": "sponsorship",
        "X-GitHub-Delivery": delivery_id,
        "X-Hub-Signature-256": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest(),
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as answer:  # noqa: S310
            return UUID(json.load(answer)["signal_id"])
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:500]
        raise PortalNotRunning(f"The portal did not accept the delivery ({error.code}): {said}") from error
    except OSError as error:
        raise PortalNotRunning(f"The portal does not answer at {url}: {error}") from error


async def _find_local_node() -> LocalNode:
    configured = get_settings().rpc_urls
    for chain_id in configured:
        known = await chains.get_chain(chain_id)
        if not known.is_local:
            raise NotOnLocalChain(
                f"{known.name} (chain {chain_id}) is not a local chain. The quickstart makes people whose passwords it "
                "prints, so it runs only where every chain is local."
            )
    if not configured:
        raise NotOnLocalChain("PORTAL_CHAIN_RPC_URLS names no chain; start a local one with `portal up`.")
    chain_id, urls = next(iter(configured.items()))
    return LocalNode(chain_id, urls[0])


@asynccontextmanager
async def _doorbell() -> AsyncIterator[None]:
    queue = make_queue()
    await queue.connect()
    try:
        async with open_doorbell(queue):
            yield
    finally:
        await queue.disconnect()
