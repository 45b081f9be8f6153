"""What a transaction that deploys does to its contract, in the db transaction of the move that decides it."""

from portal.accounts.schemas import system_actor
from portal.audit import service as audit
from portal.chain.service import ContractNotDeploying, activate_contract, fail_contract
from portal.logging import get_logger
from portal.transactions.moves import Work, correlated

log = get_logger(__name__)


async def end_deployment(work: Work, address: str | None) -> None:
    """Make the contract that `work` deploys active at `address`, or failed without one; nothing for a plain call."""
    contract_id = work.deploys_contract_id
    if contract_id is None:
        return
    with correlated(work):
        try:
            await (activate_contract(contract_id, address) if address else fail_contract(contract_id))
        except ContractNotDeploying:
            # Confirmed, undone and confirmed again: signer and nonce, hence the address, are the same.
            log.info("contract.deployment_ended_before", contract_id=str(contract_id))
            return
        await audit.append(
            system_actor(work.organization_id, "transactions"),
            "contract.deployed" if address else "contract.failed",
            "contract",
            contract_id,
            {"transaction_id": str(work.id), "address": address},
        )
