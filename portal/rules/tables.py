"""Rules and their immutable versions."""

from enum import StrEnum

from piccolo.constraints import Unique
from piccolo.table import Table

from portal.accounts.tables import Member, Organization
from portal.actions.tables import Policy
from portal.chain.tables import Contract
from portal.db import columns
from portal.signals.tables import Source


class RuleStatus(StrEnum):
    DRAFT = "draft"
    PUBLISHED = "published"
    DISABLED = "disabled"


class Rule(Table, tablename="rule"):
    """Turns signals of one source into proposed actions."""

    id = columns.key()
    organization = columns.reference(Organization, index=True)
    source = columns.reference(Source, index=True)
    name = columns.text()
    status = columns.text()
    published_number = columns.integer(null=True)
    """Number of the version in force; null for a draft that never was published."""
    created_at = columns.moment()
    updated_at = columns.moment()

    one_rule_name = Unique(["organization", "name"])
    status_is_known = columns.one_of("status", RuleStatus)


class RuleVersion(Table, tablename="rule_version"):
    """One edition of a rule; never changed once made."""

    id = columns.key()
    rule = columns.reference(Rule)
    number = columns.integer()
    condition = columns.text()
    """CEL; true proposes."""
    subject = columns.text(null=True)
    """CEL; a map with `id`, and optionally `name` and `email`, of the end user it is for."""
    contract = columns.reference(Contract)
    function = columns.text()
    arguments = columns.json()
    """CEL by argument name of the ABI."""
    policy = columns.reference(Policy)
    created_by = columns.reference(Member, null=True)
    created_at = columns.moment()

    one_rule_version = Unique(["rule", "number"])
