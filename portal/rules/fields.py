"""Which fields of a payload expressions read. Pure.

Handing a payload to the expression library costs more than everything else in an assessment, so it gets only what is
asked for. What cannot be told from the text of an expression counts as asking for all of it.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

Wanted = dict[str, Any]
"""By name of a field what is wanted below it: `Wanted` again, or None for all of it."""

GAP = r"(?:\s|//[^\n]*\n)*"
# A name that is followed by a parenthesis is a method, not a field. A quoted name with an escape is not understood.
STEPS = rf"(?:\.[A-Za-z_]\w*(?!\w*{GAP}\()|\[\"[^\"\\]*\"\]|\['[^'\\]*'\])*"
USE = re.compile(rf"\bpayload\b({STEPS})")
STEP = re.compile(r"\.(\w+)|\[\"([^\"]*)\"\]|\['([^']*)'\]")


def fields_read(texts: Iterable[str]) -> Wanted | None:
    """What of the payload any of these expressions can see; None for all of it.

    It may say more than they read (a text in quotes, a variable that is named `payload`), but never less.
    """
    wanted: Wanted = {}
    for text in texts:
        for steps in USE.findall(text):
            names = ["".join(groups) for groups in STEP.findall(steps)]
            if not names:
                return None
            _want(wanted, names)
    return wanted


def _want(wanted: Wanted, names: list[str]) -> None:
    for name in names[:-1]:
        below = wanted.setdefault(name, {})
        if below is None:
            return
        wanted = below
    wanted[names[-1]] = None


def pick(payload: Any, wanted: Wanted | None, convert: Callable[[Any], Any]) -> Any:
    """The part of `payload` that is `wanted`, its values as `convert` makes them."""
    if wanted is None or not isinstance(payload, dict):
        return convert(payload)
    return {name: pick(payload[name], below, convert) for name, below in wanted.items() if name in payload}
