"""The verbs of this room: what rules, pages, the API and the transactions room call."""

from portal.actions.contracts import create_signer, propose_deployment, register_contract
from portal.actions.decisions import approve, cancel, expire_due, reject
from portal.actions.gate import verify_for_signing
from portal.actions.policies import change_policy, create_policy
from portal.actions.proposals import prepare_many, propose, propose_in_transaction, store_many
from portal.actions.simulations import resimulate, simulate, simulate_waiting

__all__ = [
    "approve",
    "cancel",
    "change_policy",
    "create_policy",
    "create_signer",
    "expire_due",
    "prepare_many",
    "propose",
    "propose_deployment",
    "propose_in_transaction",
    "register_contract",
    "reject",
    "resimulate",
    "simulate",
    "simulate_waiting",
    "store_many",
    "verify_for_signing",
]
