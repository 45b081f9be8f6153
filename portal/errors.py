"""Errors that a caller can understand and mend.

Every expected failure of the product is a `PortalError`. Only the edge (HTTP, CLI) renders one; services raise it.
"""

from typing import ClassVar


class FieldError(Exception):
    """One wrong input: `path` is a JSON pointer such as `/settings/header`, `message` a sentence."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path
        self.message = message


class PortalError(Exception):
    """Base of all expected errors. The class name in snake case is the machine-readable `code`."""

    status: ClassVar[int] = 400
    title: ClassVar[str] = "The request cannot be carried out"

    def __init__(
        self,
        detail: str,
        *,
        fields: list[FieldError] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields or []
        self.retry_after_seconds = retry_after_seconds

    @property
    def code(self) -> str:
        name = type(self).__name__
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


class InputInvalid(PortalError):
    status = 400
    title = "Some of the input is not valid"

    @classmethod
    def at(cls, path: str, message: str) -> "InputInvalid":
        return cls(message, fields=[FieldError(path, message)])


class NotSignedIn(PortalError):
    status = 401
    title = "Sign in first"


class Forbidden(PortalError):
    status = 403
    title = "Not permitted"


class NotFound(PortalError):
    """Also raised for what exists in another organisation, so that ids reveal nothing."""

    status = 404
    title = "Not found"


class Conflict(PortalError):
    """The state is not what the request assumed; base class of sentences about state."""

    status = 409
    title = "The state has changed"


class PreconditionFailed(PortalError):
    """`If-Match` names another version than the current one."""

    status = 412
    title = "It was changed in the meantime"


class TooManyRequests(PortalError):
    status = 429
    title = "Too many requests"


class Unavailable(PortalError):
    """A part that we need does not answer; nothing was changed, trying again is safe."""

    status = 503
    title = "Temporarily unavailable"


class SettingInvalid(PortalError):
    """A setting is missing or wrong; commands print `detail` and exit with code 2."""

    title = "A setting is not valid"
