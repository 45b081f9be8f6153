"""Why a delivery is refused, as sentences about it."""

from typing import ClassVar

from portal.errors import Conflict, Forbidden, InputInvalid, NotSignedIn, PortalError, TooManyRequests


class SignatureInvalid(NotSignedIn):
    """The one answer for a wrong signature and for an unknown source; `reason` is for the source's owner only."""

    title = "The signature does not match"
    DETAIL: ClassVar[str] = (
        "The delivery is not signed with an active secret of this source. Check the address, the secret and the clock."
    )

    def __init__(self, reason: str) -> None:
        super().__init__(self.DETAIL)
        self.reason = reason


class HeadersInvalid(InputInvalid):
    title = "The headers of the delivery are not valid"


class BodyTooLarge(PortalError):
    status = 413
    title = "The body is too large"


class SourcePaused(Forbidden):
    """Said only to a sender whose signature is right."""

    title = "The source is paused"


class AddressNotAllowed(Forbidden):
    """Said only to a sender whose signature is right."""

    title = "The source takes no deliveries from this address"


class RateLimited(TooManyRequests):
    """Said only to a sender whose signature is right."""

    title = "The source takes no more deliveries in this minute"


class PayloadInvalid(PortalError):
    """Said only to a sender whose signature is right, where the source refuses what fails its schema."""

    status = 422
    title = "The body does not fit the schema of its type"


class SourceChanged(Conflict):
    """Read it again and check again: nothing was stored."""

    title = "The source was changed meanwhile"


class SignalConflict(Conflict):
    """The same external id came with another body; what was stored first stands."""

    title = "This id was delivered before with another body"


class SourceNameTaken(Conflict):
    title = "Another source has this name"


class SourceNotActive(Conflict):
    title = "The source is not active"


class SourceNotPaused(Conflict):
    title = "The source is not paused"


class SourceNotPulled(Conflict):
    title = "The source is not pulled"


class LastSecret(Conflict):
    title = "This is the only secret"


class TooManySecrets(Conflict):
    title = "The source has too many secrets"


class SecretEnded(Conflict):
    title = "The secret has ended already"


class TooManyBatches(Conflict):
    title = "Enough of this kind is under way"


class BatchEnded(Conflict):
    title = "It has ended already"


class ExportHasNoFile(Conflict):
    title = "The export has no file"


class DeliveryNotAcceptable(Conflict):
    title = "The delivery still cannot be accepted"
