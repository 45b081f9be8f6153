"""JSON as a tree that people can fold, within bounds: a page shows no more than somebody reads. Pure."""

import re
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


class Tree(msgspec.Struct, frozen=True):
    root: Node
    whole: bool
    """False where something was left out."""


def tree_of(payload: Any) -> Tree:
    """The first `MAX_NODES` values of a payload, in their order."""
    budget = _Budget(MAX_NODES)
    root = _node("payload", "payload", payload, 0, budget)
    return Tree(root, not budget.exceeded)


class _Budget:
    def __init__(self, left: int) -> None:
        self.left = left
        self.exceeded = False

    def take(self) -> bool:
        self.left -= 1
        self.exceeded = self.exceeded or self.left < 0
        return self.left >= 0


def _node(label: str, path: str, value: Any, depth: int, budget: _Budget) -> Node:
    if isinstance(value, dict | list) and value:
        kind, noun = ("object", "field") if isinstance(value, dict) else ("list", "item")
        node = Node(label=label, path=path, kind=kind, text=f"{len(value):,} {noun}{'' if len(value) == 1 else 's'}")
        if depth == MAX_DEPTH:
            budget.exceeded = True
            return node
        node.children = []
        for name, child in value.items() if isinstance(value, dict) else enumerate(value):
            if not budget.take():
                break
            node.children.append(_node(str(name), path + _step(name), child, depth + 1, budget))
        return node
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
