"""Why an action, a decision or a signing is refused, as sentences about state."""

from portal.errors import Conflict, Forbidden


class ActionNotProposed(Conflict):
    title = "The action is no longer open"


class DigestChanged(Conflict):
    title = "This is not the call that you were shown"


class AlreadyDecided(Conflict):
    title = "You have already decided"


class SimulationReverts(Conflict):
    title = "The call would fail"


class OutcomeChanged(Conflict):
    title = "It would do something else now"


class OutcomeNotShown(Conflict):
    title = "Look at the result first"


class ContractNotCallable(Conflict):
    title = "The contract cannot be called"


class SignerNotReady(Conflict):
    title = "The signer cannot sign yet"


class NameTaken(Conflict):
    title = "The name is taken"


class ProposerMayNotApprove(Forbidden):
    title = "Somebody else has to approve this"


class OnlyMembersDecide(Forbidden):
    title = "Only a person can decide"


class GateRefused(Conflict):
    """Raised at the moment of signing; `detail` is the difference from what was approved."""

    title = "What would be signed is not what was approved"
