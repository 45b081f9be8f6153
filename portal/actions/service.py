"""The verbs of this room: what rules, pages, the API and the transactions room call."""

from portal.actions.contracts import register_contract
from portal.actions.decisions import approve, cancel, expire_due, reject
from portal.actions.deployments import inspect_artifact, propose_deployment
from portal.actions.gate import verify_for_signing
from portal.actions.policies import change_policy, create_policy
from portal.actions.proposals import prepare_many, propose, propose_in_transaction, store_many
from portal.actions.rights import propose_handover, propose_right
from portal.actions.signers import (
    change_group,
    change_senders,
    create_group,
    create_signer,
    disable_signer,
    enable_signer,
    remove_group,
    remove_signer,
)
from portal.actions.simulations import resimulate, simulate, simulate_waiting

__all__ = [
    "approve",
    "cancel",
    "change_group",
    "change_policy",
    "change_senders",
    "create_group",
    "create_policy",
    "create_signer",
    "disable_signer",
    "enable_signer",
    "expire_due",
    "inspect_artifact",
    "prepare_many",
    "propose",
    "propose_deployment",
    "propose_handover",
    "propose_in_transaction",
    "propose_right",
    "register_contract",
    "reject",
    "remove_group",
    "remove_signer",
    "resimulate",
    "simulate",
    "simulate_waiting",
    "store_many",
    "verify_for_signing",
]
