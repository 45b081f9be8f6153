"""What goes into the rules room and what comes out of it."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

import msgspec

from portal.rules.tables import RuleStatus

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f]*$")]
Expression = Annotated[str, msgspec.Meta(min_length=1, max_length=2000)]


class RuleChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version of a rule says."""

    name: Name
    condition: Expression
    """CEL over `signal` and `payload`; true proposes."""
    subject: Expression | None = None
    """CEL; a map with `id`, and perhaps `name` and `email`, of the end user it is for."""
    contract_id: UUID
    function: str
    """Canonical signature, `mint(address,uint256)`."""
    arguments: dict[str, Expression]
    """CEL over `signal`, `payload` and `subject`, by the name of the argument."""
    policy_id: UUID


class RuleInput(RuleChange, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new rule."""

    source_id: UUID


class RuleDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As much of a rule as is written so far, to be tried on a stored signal."""

    condition: str
    subject: str | None = None
    contract_id: UUID | None = None
    function: str | None = None
    arguments: dict[str, str] = {}


class RuleVersionView(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    number: int
    condition: str
    subject: str | None
    contract_id: UUID
    contract_name: str
    function: str
    arguments: dict[str, str]
    policy_id: UUID
    policy_name: str
    created_by: str | None
    """E-mail of the member; None where an API key or a command made it."""
    created_at: datetime


class RuleView(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    name: str
    status: RuleStatus
    source_id: UUID
    source_name: str
    published_number: int | None
    """The version in force while the rule is published."""
    latest: RuleVersionView
    """The newest version, in force or not."""
    created_at: datetime
    updated_at: datetime


class Problem(msgspec.Struct, frozen=True):
    """What is wrong with one part of a draft: `path` is `/condition`, `/subject`, `/arguments/amount` ..."""

    path: str
    message: str


class TrialSubject(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    email: str | None
    end_user_id: UUID | None
    """None where the rule would make the end user."""
    address: str | None
    """None where the rule would make the key; the trial computes with the zero address then."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a draft would do with one signal; nothing was changed."""

    matches: bool | None
    """None where the condition has a problem."""
    subject: TrialSubject | None
    arguments: dict[str, Any]
    """The values that could be computed, whether or not the condition holds."""
    problems: list[Problem]
