"""JSON as a tree that people can fold, within bounds: a page shows no more than somebody reads. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

MAX_NODES = 400
MAX_DEPTH = 10
MAX_LETTERS = 300
NAME = re.compile(r"[A-Za-z_]\w*")


class Node(msgspec.Struct, kw_only=True):
    """One value of the tree; `children` is None for a leaf."""

    label: str
    path: str
    """As an expression of a rule names it: `payload.sponsorship.tier.name`."""
    kind: str
    """`object`, `list`, `text`, `number`, `yes or no` or `nothing`."""
    text: str
    children: list["Node"] | None = None
    anchor: str | None = None
    """The id of the element, for links to what is wrong here."""
    wrong: Sequence[str] = ()
    """What is wrong with this value, in sentences."""
    leads: bool = False
    """Whether something within it is wrong."""


class Tree(msgspec.Struct, frozen=True):
    root: Node
    whole: bool
    """False where something was left out."""
    anchors: dict[str, str]
    """By JSON Pointer, of the values that are there and wrong."""


def tree_of(payload: Any, wrong: Mapping[str, Sequence[str]] | None = None) -> Tree:
    """The first `MAX_NODES` values of a payload, in their order, and all that are `wrong`.

    `wrong` has sentences by JSON Pointer (RFC 6901).
    """
    budget = _Budget(MAX_NODES, {_steps(pointer): (pointer, said) for pointer, said in (wrong or {}).items()})
    root = _node("payload", "payload", payload, (), budget)
    return Tree(root, not budget.exceeded, budget.anchors)


def _steps(pointer: str) -> tuple[str, ...]:
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


class _Budget:
    def __init__(self, left: int, wrong: dict[tuple[str, ...], tuple[str, Sequence[str]]]) -> None:
        self.left = left
        self.exceeded = False
        self.wrong = wrong
        self.ways = {steps[:length] for steps in wrong for length in range(len(steps) + 1)}
        """To what is wrong: drawn whatever the bounds."""
        self.anchors: dict[str, str] = {}

    def take(self) -> bool:
        self.left -= 1
        self.exceeded = self.exceeded or self.left < 0
        return self.left >= 0

    def mark(self, node: Node, steps: tuple[str, ...]) -> None:
        """Say at the node what is wrong there."""
        node.leads = steps in self.ways
        if steps in self.wrong:
            pointer, node.wrong = self.wrong[steps]
            node.anchor = self.anchors[pointer] = f"wrong-{len(self.anchors) + 1}"


def _node(label: str, path: str, value: Any, steps: tuple[str, ...], budget: _Budget) -> Node:
    node = _leaf(label, path, value, budget)
    budget.mark(node, steps)
    if not isinstance(value, dict | list) or not value:
        return node
    if len(steps) >= MAX_DEPTH and not node.leads:
        budget.exceeded = True
        return node
    node.children = []
    for name, child in value.items() if isinstance(value, dict) else enumerate(value):
        below = (*steps, str(name))
        if budget.take() or below in budget.ways:
            node.children.append(_node(str(name), path + _step(name), child, below, budget))
        elif not node.leads:
            break
    return node


def _leaf(label: str, path: str, value: Any, budget: _Budget) -> Node:
    if isinstance(value, dict | list) and value:
        kind, noun = ("object", "field") if isinstance(value, dict) else ("list", "item")
        return Node(label=label, path=path, kind=kind, text=f"{len(value):,} {noun}{'' if len(value) == 1 else 's'}")
    text = _text(value)
    if len(text) > MAX_LETTERS:
        budget.exceeded = True
        text = text[:MAX_LETTERS] + "…"
    return Node(label=label, path=path, kind=_kind(value), text=text)


def _step(name: str | int) -> str:
    if isinstance(name, int):
        return f"[{name}]"
    return f".{name}" if NAME.fullmatch(name) else f"[{msgspec.json.encode(name).decode()}]"


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "yes or no"
    return "text" if isinstance(value, str) else "object" if value == {} else "list" if value == [] else "number"


def _text(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else str(value)
        if _kind(value) == "number"
        else msgspec.json.encode(value).decode()
    )
