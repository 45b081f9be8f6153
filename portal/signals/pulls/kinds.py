"""What the kinds of pull sources have in common."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import msgspec

from portal.signals.intake.service import PulledFact

Position = dict[str, Any]
"""How a source goes on, as JSON; `{}` is from the start. Only its kind knows what is in it."""


class PullFailed(Exception):
    """A pull got no usable answer; the text is a sentence for the source's owner, without a secret."""

    def __init__(self, sentence: str, *, retry_after_seconds: int | None = None) -> None:
        super().__init__(sentence)
        self.retry_after_seconds = retry_after_seconds


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """A source that this worker alone pulls, as it was when it was claimed."""

    source_id: UUID
    organization_id: UUID
    kind: str
    settings: Any
    """Of the type that the kind declares."""
    secret: str | None
    """The newest active one."""
    failures: int
    """In a row, before this attempt."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What one step fetched. It is stored together with the position it leads to, or not at all."""

    facts: list[PulledFact]
    position: Position
    more: bool
    """Whether to go on at once."""
    undone: dict[str, Any] | None = None
    """A reorganisation that was found: what the audit says of it."""


class PullKind(msgspec.Struct, frozen=True, kw_only=True):
    """A way to pull. `source.scheme` holds its name."""

    name: str
    label: str
    settings_type: type[msgspec.Struct]
    check_secret: Callable[[str, Any], str]
    """As that of a scheme: the secret as it is kept. None is ever needed. Raises `InputInvalid` at `/secret`."""
    check: Callable[[UUID, Any], Awaitable[None]]
    """Raises `InputInvalid` at `/settings/...` for settings that cannot work in the organisation."""
    first_position: Callable[[Any], Position]
    keeps_position: Callable[[Any, Any], bool]
    """Whether a source whose settings change from the first to the second goes on where it stands."""
    describe: Callable[[Position], str]
    """A position in words, as a sentence."""
    fetch: Callable[[Claim, Position], Awaitable[Step]]
    """The next step. Raises `PullFailed`. No db transaction is open meanwhile."""
