"""A stage for tests of rules: a source, a points contract as registered, a policy, and the rule of the quickstart."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from portal import clock
from portal.actions.schemas import PolicyInput
from portal.actions.service import create_policy
from portal.chain.tables import Chain, Contract, Signer
from portal.db.columns import new_id
from portal.rules.schemas import RuleInput, RuleView
from portal.rules.service import create_rule, publish_rule
from tests.people import Cast, Player
from tests.signals import Sender, make_sender

MINT = "mint(address,uint256)"
ABI = [
    {
        "type": "function",
        "name": "mint",
        "stateMutability": "nonpayable",
        "inputs": [{"name": "to", "type": "address"}, {"name": "amount", "type": "uint256"}],
        "outputs": [],
    }
]
CONDITION = 'signal.type == "sponsorship" && payload.action == "created"'
SUBJECT = '{"id": "github:" + payload.sponsorship.sponsor.login, "name": payload.sponsorship.sponsor.login}'
ARGUMENTS = {
    "to": "subject.address",
    "amount": "units(payload.sponsorship.tier.monthly_price_in_dollars, 18)",
}


@dataclass(frozen=True)
class RuleStage:
    cast: Cast
    sender: Sender
    contract_id: UUID
    policy_id: UUID

    def input(self, **changed: Any) -> RuleInput:
        """The quickstart's rule, with what a test wants changed."""
        said = {
            "name": "Thank sponsors",
            "source_id": self.sender.source_id,
            "condition": CONDITION,
            "subject": SUBJECT,
            "contract_id": self.contract_id,
            "function": MINT,
            "arguments": ARGUMENTS,
            "policy_id": self.policy_id,
        }
        return RuleInput(**{**said, **changed})

    async def publish(self, by: Player | None = None, **changed: Any) -> RuleView:
        actor = (by or self.cast.alice).actor
        rule = await create_rule(actor, self.input(**changed))
        return await publish_rule(actor, rule.id)


async def make_rule_stage(cast: Cast, player: Player | None = None) -> RuleStage:
    player = player or cast.alice
    return RuleStage(
        cast,
        await make_sender(player),
        await make_contract(player.actor.organization_id),
        (await create_policy(player.actor, PolicyInput(name="Two people", approvals_required=2))).id,
    )


async def make_contract(organization_id: UUID, *, status: str = "active") -> UUID:
    """A registered contract; nothing here calls it."""
    now, signer_id, contract_id = clock.now(), new_id(), new_id()
    if not await Chain.exists().where(Chain.id == 31337):
        await Chain.insert(
            Chain(id=31337, name="Local", currency="ETH", confirmations=1, is_local=True, genesis_hash="0x" + "0" * 64)
        )
    await Signer.insert(
        Signer(
            id=signer_id,
            organization=organization_id,
            name=f"Treasury {signer_id}",
            purpose="sends",
            status="active",
            address="0x" + signer_id.hex + "0" * 8,
            encrypted_key=b"none",
            created_at=now,
        )
    )
    await Contract.insert(
        Contract(
            id=contract_id,
            organization=organization_id,
            chain=31337,
            name="Acme Points",
            status=status,
            address="0x" + contract_id.hex + "0" * 8 if status == "active" else None,
            abi=ABI,
            allowed_functions=[MINT],
            symbol="PTS",
            decimals=18,
            signer=signer_id,
            created_at=now,
        )
    )
    return contract_id
