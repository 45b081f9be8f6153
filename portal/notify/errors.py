"""What can be wrong with a request about webhooks; each is a sentence about state."""

from portal.errors import Conflict


class WebhookNotActive(Conflict):
    """It is disabled, so nothing is sent to it."""


class WebhookNotDisabled(Conflict):
    """It is active already."""


class TooManyWebhooks(Conflict):
    """The organisation has as many as it may have."""


class TooManySecrets(Conflict):
    """It signs with as many secrets as it may have."""


class LastSecret(Conflict):
    """Without it nothing could be signed."""


class SecretEnded(Conflict):
    """Nothing is signed with it any more."""
