"""Evaluates the expressions of rules (CEL) within bounds. Pure.

What the library leaves open is closed here:
- It holds the GIL and cannot be interrupted, and building lists copies them: so expressions are short, have at most one
  comprehension, never nested, over lists of at most 1,000 elements; `map` and `filter`, which build lists, may use only
  their own variable and have a budget of elements times bytes.
- It turns integers beyond 64 bits into floats: so integers beyond 2^63 - 1 and fractions that a double would round come
  into an expression as decimal strings, and `units()` computes amounts in decimal.
"""

import re
import time
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import cel
import msgspec

from portal.errors import InputInvalid
from portal.rules.errors import RuleFailed
from portal.rules.fields import GAP, Wanted, pick

MAX_LENGTH = 2000
MAX_LIST = 1000
LIST_BUDGET = 20_000_000
"""Elements of the longest list times bytes of the payload for `map` and `filter`: about half a second."""
SLOW_SECONDS = 1.0
MAX_TEXT = 10_000

VARIABLES = frozenset({"signal", "payload"})
ARGUMENT_VARIABLES = VARIABLES | {"subject"}
# fmt: off
FUNCTIONS = frozenset({
    "units", "size", "contains", "startsWith", "endsWith", "matches", "int", "uint", "double", "string", "bytes",
    "timestamp", "duration", "type", "dyn", "getFullYear", "getMonth", "getDate", "getDayOfMonth", "getDayOfWeek",
    "getDayOfYear", "getHours", "getMinutes", "getSeconds", "getMilliseconds",
})
# fmt: on
# Found in the raw text, strings included: refusing a string that looks like one is better than missing one.
COMPREHENSION = re.compile(rf"\b(all|exists|exists_one|existsOne|map|filter){GAP}\({GAP}(\w+)?")
STRING = re.compile(r"""[rRbB]{0,2}(?:'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")""", re.S)
PATH = re.compile(r"\b(signal|payload|subject)((?:\.[A-Za-z_]\w*(?!\w*\s*\()|\[(?:\"[^\"]*\"|'[^']*')\])+)")
STEP = re.compile(r"\.(\w+)|\[[\"'](.*?)[\"']\]")
AMOUNT = re.compile(r"[0-9]{1,100}(?:\.[0-9]{1,100})?")


class Condition(msgspec.Struct, frozen=True):
    """A compiled expression, safe to evaluate within its limits."""

    text: str
    program: Any
    comprehension: str | None
    """Name of its one comprehension macro, if it has one."""


class Subject(msgspec.Struct, frozen=True):
    """The end user that a signal is about, as its rule reads it."""

    id: str
    name: str
    email: str | None


def check_condition(text: str, *, path: str, variables: frozenset[str] = VARIABLES) -> Condition:
    """Compile an expression that somebody wrote. Raises `InputInvalid` at `path`, with a sentence."""
    try:
        return compile_condition(text, variables)
    except RuleFailed as error:
        raise InputInvalid.at(path, str(error)) from None


def compile_condition(text: str, variables: frozenset[str] = VARIABLES) -> Condition:
    """Compile once for each text. Raises `RuleFailed` for what is too long, unclear, unknown or too costly."""
    compiled = _compile_once(text, variables)
    if isinstance(compiled, str):
        raise RuleFailed(compiled)
    return compiled


@lru_cache(maxsize=2048)
def _compile_once(text: str, variables: frozenset[str]) -> Condition | str:
    """The condition, or why it is none: what cannot be compiled would cost as much again for every signal."""
    try:
        return _check_and_compile(text, variables)
    except RuleFailed as error:
        return str(error)


def _check_and_compile(text: str, variables: frozenset[str]) -> Condition:
    if not text.strip():
        raise RuleFailed("The expression is empty.")
    if len(text) > MAX_LENGTH:
        raise RuleFailed(f"The expression has {len(text)} characters; at most {MAX_LENGTH} are allowed.")
    if "\0" in text:
        raise RuleFailed("The expression contains the character U+0000.")
    found = list(COMPREHENSION.finditer(text))
    if len(found) > 1:
        raise RuleFailed("Only one of all(), exists(), exists_one(), map() and filter() may be used in an expression.")
    program = _compile(text)
    macro, bound = (found[0].group(1), found[0].group(2)) if found else (None, None)
    unknown = [name for name in program.variables() if name not in variables and name != bound]
    if unknown:
        known = ", ".join(sorted(variables))
        raise RuleFailed(f"There is no `{unknown[0]}` here; there are: {known}.")
    for name in program.functions():
        if name[0].isalpha() and name not in FUNCTIONS:
            raise RuleFailed(f"There is no function `{name}()`.")
    if macro in ("map", "filter") and re.search(r"(?<!\.)\b(payload|signal|subject)\b", _inside(text, found[0].end(1))):
        raise RuleFailed(f"Inside {macro}() only its own variable `{bound}` may be used.")
    return Condition(text, program, macro)


def _compile(text: str) -> Any:
    try:
        return cel.compile(text)
    except ValueError as error:
        position = re.search(r"ERROR: <input>:(\d+):(\d+): (.*)", str(error))
        if not position:
            raise RuleFailed("The expression is not well formed.") from None
        line, column, message = position.groups()
        message = message.removeprefix("Syntax error: ").partition(" expecting ")[0]
        where = f"line {line}, column {column}"
        raise RuleFailed(f"The expression is not well formed at {where}: {message[:200]}.") from None
    except Exception as error:
        raise RuleFailed(f"The expression cannot be compiled ({type(error).__name__}).") from error


def _inside(text: str, start: int) -> str:
    """What stands between the parentheses that open after `start`, without the contents of strings."""
    rest = STRING.sub("''", text[start:])
    depth = 0
    for index, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if character == ")" and depth == 0:
            return rest[:index]
    return rest


class Facts:
    """What the expressions of one signal see; converted once for all of them."""

    def __init__(
        self, signal: Mapping[str, Any], payload: Any, *, payload_bytes: int, wanted: Wanted | None = None
    ) -> None:
        """`wanted` is what of the payload they read; None for all. Raises `RuleFailed` where that cannot be given."""
        self._budget = _Budget(payload, payload_bytes)
        self._values: dict[str, Any] = {"signal": dict(signal), "payload": pick(payload, wanted, _plain)}
        self._units = _Units()
        try:
            self._context = cel.Context(self._values, {"units": self._units})
        except Exception as error:
            raise RuleFailed("The payload cannot be read by expressions.") from error

    def set_subject(self, subject: Subject, *, id: str, address: str | None) -> None:
        """Give the end user to the expressions that follow: `id` is ours, `address` the one that holds for them."""
        value = {"id": id, "name": subject.name, "email": subject.email, "address": address}
        self._values["subject"] = value
        self._context.add_variable("subject", value)

    def evaluate(self, condition: Condition) -> Any:
        """The value of an expression. Raises `RuleFailed` with a readable reason; never anything else."""
        self._budget.check(condition)
        self._units.problem = None
        started = time.perf_counter()
        try:
            value = condition.program.execute(self._context)
        except BaseException as error:  # the library's panics are no Exceptions
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise RuleFailed(self._units.problem or _reason(error, condition.text, self._values)) from None
        if self._units.problem:
            raise RuleFailed(self._units.problem)
        if (took := time.perf_counter() - started) > SLOW_SECONDS:
            raise RuleFailed(
                f"The expression took {took:.1f} s for this signal; at most {SLOW_SECONDS:.0f} s is allowed."
            )
        return value


def evaluate_condition(facts: Facts, condition: Condition) -> bool:
    """Whether the condition holds. Raises `RuleFailed` also for a value that is neither true nor false."""
    value = facts.evaluate(condition)
    if not isinstance(value, bool):
        raise RuleFailed(f"The condition must be true or false; it is {_kind(value)}.")
    return value


def evaluate_subject(facts: Facts, condition: Condition) -> Subject:
    """The end user whom the expression names: a map with `id` and perhaps `name` and `email`. Raises `RuleFailed`."""
    value = facts.evaluate(condition)
    if not isinstance(value, dict) or "id" not in value:
        raise RuleFailed('The subject must be a map with an id, such as {"id": "github:" + payload.sender.login}.')
    if extra := sorted(str(key) for key in value if key not in ("id", "name", "email")):
        raise RuleFailed(f"The subject has `{extra[0][:100]}`; it may have id, name and email only.")
    id, name, email = value["id"], value.get("name"), value.get("email")
    if isinstance(id, int) and not isinstance(id, bool):
        id = str(id)
    if not isinstance(id, str) or not id.strip() or len(id) > 200 or not id.isprintable():
        raise RuleFailed("The subject's id must be a text of 1 to 200 printable characters.")
    for label, text in (("name", name), ("email", email)):
        if text is not None and (not isinstance(text, str) or len(text) > 200 or not text.isprintable()):
            raise RuleFailed(f"The subject's {label} must be a text of at most 200 printable characters.")
    return Subject(id, name or id, email or None)


def evaluate_argument(facts: Facts, condition: Condition) -> Any:
    """A JSON value for an argument of a call: texts, whole numbers, true, false, lists and maps of them."""
    return _json(facts.evaluate(condition))


def _json(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        if "\0" in value or len(value) > MAX_TEXT:
            raise RuleFailed(f"A text must have at most {MAX_TEXT} characters and not contain U+0000.")
        return value
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, float):
        raise RuleFailed(f"The value is {value!r}; an amount must be exact: write units(amount, decimals).")
    if isinstance(value, list):
        return [_json(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _json(item) for key, item in value.items()}
    raise RuleFailed(f"The value is {_kind(value)}, which is no argument of a call.")


class _Units:
    """`units(amount, decimals)`: the amount in the smallest unit, as a decimal string, exactly or not at all.

    The library prints what a function raises, payload included, to stderr: so the problem is kept here instead.
    """

    problem: str | None = None

    def __call__(self, amount: Any, decimals: Any) -> str:
        try:
            return to_units(amount, decimals)
        except RuleFailed as error:
            self.problem = self.problem or str(error)
            return ""


def to_units(amount: Any, decimals: Any) -> str:
    """`to_units("1.5", 18)` is `"1500000000000000000"`. Raises `RuleFailed` for what cannot be exact or is negative."""
    if not isinstance(decimals, int) or isinstance(decimals, bool) or not 0 <= decimals <= 77:
        raise RuleFailed("units(): the number of decimals must be a whole number from 0 to 77.")
    if isinstance(amount, float):
        amount = format(Decimal(repr(amount)), "f")
    text = str(amount) if isinstance(amount, int) and not isinstance(amount, bool) else amount
    if not isinstance(text, str) or not AMOUNT.fullmatch(text):
        shown = f"{text[:40]!r}" if isinstance(text, str) else _kind(text)
        raise RuleFailed(f'units(): the amount must be a number such as 12 or "12.50", not negative; it is {shown}.')
    whole, _, fraction = text.partition(".")
    fraction = fraction.rstrip("0")
    if len(fraction) > decimals:
        raise RuleFailed(f"units(): {text[:60]} has more than {decimals} decimals, so it cannot be exact.")
    units = int(whole + fraction.ljust(decimals, "0"))
    if units >= 2**256:
        raise RuleFailed(f"units(): {text[:60]} with {decimals} decimals is more than a contract can hold.")
    return str(units)


class _Budget:
    """How long the longest list is, found only if a comprehension asks."""

    def __init__(self, payload: Any, payload_bytes: int) -> None:
        self._payload = payload
        self._bytes = payload_bytes
        self._longest: int | None = None

    def check(self, condition: Condition) -> None:
        if condition.comprehension is None:
            return
        if self._longest is None:
            self._longest = _longest(self._payload)
        if self._longest > MAX_LIST:
            macro = f"{condition.comprehension}()"
            raise RuleFailed(f"The payload has {self._longest} elements in one list; {macro} takes {MAX_LIST} at most.")
        if condition.comprehension in ("map", "filter") and self._longest * self._bytes > LIST_BUDGET:
            raise RuleFailed(f"The payload is too large for {condition.comprehension}(); exists() and all() may do.")


def _longest(value: Any) -> int:
    longest, waiting = 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict | list):
            longest = max(longest, len(item))
            waiting.extend(item.values() if isinstance(item, dict) else item)
    return longest


def _plain(value: Any) -> Any:
    """The payload as expressions see it: what 64 bits cannot hold exactly as a decimal string."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Decimal) or (isinstance(value, int) and not -(2**63) <= value < 2**63):
        return str(value)
    return value


def _reason(error: BaseException, text: str, values: dict[str, Any]) -> str:
    if isinstance(error, KeyError):
        return _missing_field(error, text, values)
    if isinstance(error, IndexError):
        return "A list is shorter than the expression expects."
    if isinstance(error, ZeroDivisionError):
        return "The expression divides by zero."
    if isinstance(error, OverflowError):
        return "A number does not fit into 64 bits; amounts are texts: use units(amount, decimals)."
    if isinstance(error, TypeError | RuntimeError | ValueError):
        first = str(error).partition(". ")[0].partition("\n")[0]
        return f"The expression cannot be evaluated: {printable(first)[:300]}."
    return f"The expression cannot be evaluated ({type(error).__name__})."


def _missing_field(error: KeyError, text: str, values: dict[str, Any]) -> str:
    """Where in the expression's paths the missing name is looked for, so that the reason says in what."""
    missing = str(error.args[0]).strip("'\"") if error.args else ""
    for root, steps in PATH.findall(text):
        holder, at = values.get(root), root
        for dotted, quoted in STEP.findall(steps):
            name = dotted or quoted
            if not isinstance(holder, dict):
                break
            if name not in holder and name == missing:
                return f"{at} has no field `{printable(name)[:100]}`."
            holder, at = holder.get(name), f"{at}.{name}"
    return f"There is no field `{printable(missing)[:100]}`."


def printable(text: str) -> str:
    """`text` without characters that a page or a column cannot hold."""
    return "".join(character if character.isprintable() else " " for character in text)


KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number with a fraction",
    str: "a text",
    bytes: "bytes",
    list: "a list",
    dict: "a map",
    datetime: "a time",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return KINDS.get(type(value), f"a {type(value).__name__}")
