"""What was done for an end user, in their words: no hex, no gas, no jargon."""

import re
from datetime import datetime
from uuid import UUID

import msgspec

from portal.actions.schemas import ActionView
from portal.signals.schemas import SignalView
from portal.transactions.schemas import Holding, TransactionView
from portal.web.render import amount
from portal.web.states import State
from portal.web.stories import current_state

GIVEN = re.compile(r"^(?:Mint|Issue|Transfer) (?:an? )?(?P<thing>.+) to .+$")
NUMBERS = ("nobody", "one person", "two people", "three people", "four people", "five people")
SOON = "Usually this takes less than a minute."
HELD = "It takes longer than usual. The organisation sees why."
ON_ITS_WAY = State("On its way", "send", "move")
STANDINGS = {
    "mined": State("Just arrived", "circle-check", "move"),
    "confirmed": State("Yours", "circle-check", "good"),
    "finalized": State("Yours for good", "rosette-discount-check", "good"),
    "reverted": State("Did not work", "alert-triangle", "bad"),
    "refused": State("Did not work", "alert-triangle", "bad"),
    "refused_by_node": State("Did not work", "alert-triangle", "bad"),
    "displaced": State("Did not work", "alert-triangle", "bad"),
    "cancelled": State("Called off", "ban", "calm"),
    "expired": State("Not done in time", "clock-off", "calm"),
}
"""Where a deed stands for whom it was done: members read the exact states."""
NOT_DONE = {
    "cancelled": ("It was called off", "Nothing was done.", "ban", "calm"),
    "expired": ("It was not done in time", "Nothing was done. It can be proposed anew.", "clock-off", "calm"),
    "refused": ("It was stopped", "A check before it was carried out stopped it. Nothing was done.", "shield-x", "bad"),
    "reverted": ("It did not work", "Nothing was done. It can be proposed anew.", "alert-triangle", "bad"),
    "refused_by_node": ("It did not work", "Nothing was done. It can be proposed anew.", "alert-triangle", "bad"),
    "displaced": ("It did not work", "Nothing was done. It can be proposed anew.", "alert-triangle", "bad"),
}
"""Title, text, icon and tone of the last step of what was approved and not carried out."""
ARRIVED = ("mined", "confirmed", "finalized")


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    title: str
    sentence: str
    icon: str
    state: State
    at: datetime
    organization: str


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """How much of one kind somebody owns, in words."""

    amount: str
    """`75 PTS`, `2 GRAD`."""
    name: str
    icon: str
    organization: str


class Step(msgspec.Struct, frozen=True, kw_only=True):
    title: str
    text: str
    icon: str
    tone: str = "good"
    at: datetime | None = None


def people(number: int) -> str:
    return NUMBERS[number] if number < len(NUMBERS) else f"{number} people"


def deed_of(
    action: ActionView, transaction: TransactionView | None, signal: SignalView | None, organization: str
) -> Deed:
    """One action as its end user sees it."""
    state = current_state(action, transaction)
    given = GIVEN.match(action.summary)
    thing = given["thing"] if given else None
    arrived = state in ARRIVED
    came = "" if arrived else ", not given" if state in STANDINGS else ", on its way"
    title = f"{thing}{came}" if thing else action.summary
    at = (transaction.mined_at if transaction else None) or action.decided_at or action.proposed_at
    because = f"because {signal.source_name} reported {_plain_type(signal.type)}" if signal else "on its own account"
    agreed = f", approved by {people(action.approvals_given)}" if action.approvals_given else ""
    return Deed(
        id=action.id,
        title=title,
        sentence=f"From {organization} on {at:%-d %B %Y}, {because}{agreed}.",
        icon="certificate" if thing and "certificate" in thing else "coins" if thing else "file-text",
        state=STANDINGS.get(state, ON_ITS_WAY),
        at=at,
        organization=organization,
    )


def owned_of(holding: Holding, organization: str) -> Owned:
    """A holding as its owner reads it."""
    return Owned(
        amount=amount(holding.amount, holding.decimals, holding.symbol),
        name=holding.contract_name,
        icon="certificate" if holding.decimals is None else "coins",
        organization=organization,
    )


def steps_of(action: ActionView, transaction: TransactionView | None, signal: SignalView | None) -> list[Step]:
    """How it came about, from the reason to where it stands, oldest first."""
    found = []
    if signal:
        text = f"{_plain_type(signal.type).capitalize()}. The sender was verified."
        title = f"{signal.source_name} reported it"
        found.append(Step(title=title, text=text, icon="shield-check", at=signal.received_at))
    if action.approvals_given:
        title = f"{people(action.approvals_given).capitalize()} approved it"
        text = "Each of them saw exactly what would be done."
        found.append(Step(title=title, text=text, icon="users", at=action.decided_at))
    else:
        text = "It keeps to a policy that needs nobody's approval."
        found.append(Step(title="It was approved by policy", text=text, icon="shield-check", at=action.decided_at))
    if transaction and (ended := NOT_DONE.get(current_state(action, transaction))):
        title, text, icon, tone = ended
        found.append(Step(title=title, text=text, icon=icon, tone=tone))
    elif transaction and transaction.finalized_at:
        text = "It is on record for good, and nobody can undo it."
        title = "It is final"
        found.append(Step(title=title, text=text, icon="rosette-discount-check", at=transaction.finalized_at))
    elif transaction and transaction.mined_at:
        text = "It is on record. In a short while nobody can undo it any more."
        found.append(Step(title="It is done", text=text, icon="circle-check", tone="move", at=transaction.mined_at))
    else:
        text = HELD if transaction and transaction.held else SOON
        found.append(Step(title="It is on its way", text=text, icon="send", tone="move"))
    return found


def _plain_type(name: str) -> str:
    """`sponsorship.created` as `sponsorship created`."""
    return re.sub(r"[._:/-]+", " ", name).strip() or "an event"
