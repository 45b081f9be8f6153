"""Why a rule is refused or does not come to a result."""

from portal.errors import Conflict


class RuleFailed(Exception):
    """An expression came to no usable result for one signal; the text says why, for people."""


class RuleNameTaken(Conflict):
    title = "Another rule has this name"


class RuleNotPublished(Conflict):
    title = "The rule is not published"


class RulePublished(Conflict):
    title = "This version is in force already"


class SignalNotReassessable(Conflict):
    title = "The signal cannot be assessed again"
