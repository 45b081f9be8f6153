"""How much work a JSON Schema makes of a payload, before it is done. Pure.

Alternatives, references and recursion multiply: twenty small definitions, each of which names the next one twice, check
one number a million times. The validator cannot be interrupted, so the load is bounded beforehand: for each depth of a
payload, how many checks a value there can be put to at the most.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

import msgspec

from portal.errors import InputInvalid
from portal.signals.pointers import escaped, names_in

MAX_LOAD = 10_000
"""Checks of one value: a schema that puts the outermost one to more is refused."""
HEAVY_LOAD = 100
MAX_DEPTH = 100
"""As deep as payloads may be nested."""
AGAIN = 3
"""Where something may be left unevaluated, the library goes through what is beside it once more, or twice."""

LISTS = ("allOf", "anyOf", "oneOf")
SINGLES = ("not", "if", "then", "else")
MAPS = ("dependentSchemas", "dependencies")
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
OTHER_FIELDS = ("additionalProperties", "unevaluatedProperties")
OTHER_ITEMS = ("items", "additionalItems", "unevaluatedItems")

Schema = dict[str, Any]


class Loads(msgspec.Struct, frozen=True):
    """The most checks that a value is put to, by how deep it is in the payload; they never become fewer."""

    by_depth: list[int]
    bounded: bool
    """Whether the last one holds for all that is deeper, too."""

    @property
    def heavy(self) -> bool:
        """Whether a payload of ordinary size could take long."""
        return not self.bounded or self.by_depth[-1] > HEAVY_LOAD

    def work(self, payload: Any, limit: int) -> int:
        """The most checks that the whole payload is put to; more than `limit` are not counted to the end."""
        total, depth, level = 0, 0, [payload]
        while level and total <= limit:
            if depth >= len(self.by_depth) and not self.bounded:
                return limit + 1
            total += len(level) * self.by_depth[min(depth, len(self.by_depth) - 1)]
            level = [
                part
                for value in level
                if isinstance(value, dict | list)
                for part in (value.values() if isinstance(value, dict) else value)
            ]
            depth += 1
        return total


class Node(msgspec.Struct, frozen=True):
    """A subschema: how many checks it makes of a value, and which subschemas it puts the value and its parts to."""

    path: str
    checks: int
    same: list[Schema]
    """Of the value itself, `again` times."""
    again: int
    one_of_fields: list[list[Schema]]
    """A field is put to one of these lists."""
    every_field: list[Schema]
    one_of_items: list[list[Schema]]
    every_item: list[Schema]


def loads_of(schema: Schema) -> Loads:
    """The loads of a schema; what is not a schema in it is passed over.

    Raises `InputInvalid` with the path of a reference to anything outside the schema or round in a circle, and for a
    schema that is too heavy for any payload.
    """
    nodes = _nodes(schema)
    try:
        order = list(TopologicalSorter({key: map(id, node.same) for key, node in nodes.items()}).static_order())
    except CycleError as error:
        raise InputInvalid.at(nodes[error.args[1][0]].path, "This refers to itself in a circle.") from None
    outermost: dict[int, int] = {}
    for key in order:
        outermost[key] = nodes[key].checks + nodes[key].again * sum(outermost[id(part)] for part in nodes[key].same)
    loads, by_depth = outermost, [outermost[id(schema)]]
    if by_depth[0] > MAX_LOAD:
        raise InputInvalid.at("", f"By this schema one value is checked {by_depth[0]} times; the most are {MAX_LOAD}.")
    for _ in range(MAX_DEPTH):
        deeper = _one_deeper(nodes, order, outermost, loads)
        if deeper[id(schema)] > MAX_LOAD:
            return Loads(by_depth, bounded=False)
        if deeper == loads:
            break
        loads = deeper
        by_depth.append(loads[id(schema)])
    return Loads(by_depth, bounded=True)


def _one_deeper(
    nodes: dict[int, Node], order: list[int], outermost: dict[int, int], loads: dict[int, int]
) -> dict[int, int]:
    """The loads up to one level deeper than those given."""
    below: dict[int, int] = {}

    def load(schemas: Iterable[Schema]) -> int:
        return sum(loads[id(schema)] for schema in schemas)

    for key in order:
        node = nodes[key]
        field = max(map(load, node.one_of_fields), default=0) + load(node.every_field)
        item = max(map(load, node.one_of_items), default=0) + load(node.every_item)
        below[key] = max(field, item) + node.again * sum(below[id(part)] for part in node.same)
    return {key: max(outermost[key], below[key]) for key in order}


def _nodes(schema: Schema) -> dict[int, Node]:
    """Every subschema, by its identity; definitions that nothing refers to are there, too, so that they are checked."""
    named, nodes, waiting = _Names(schema), dict[int, Node](), [schema]
    while waiting:
        raw = waiting.pop()
        if id(raw) not in nodes:
            node = nodes[id(raw)] = _node(raw, named)
            waiting += [*node.same, *node.every_field, *node.every_item]
            waiting += [*_mapped(raw.get("$defs")), *_mapped(raw.get("definitions"))]
            waiting += [part for parts in (*node.one_of_fields, *node.one_of_items) for part in parts]
    return nodes


def _node(raw: Schema, named: "_Names") -> Node:
    options, required = raw.get("enum"), raw.get("required")
    prefix = [*_listed(raw.get("prefixItems")), *_listed(raw.get("items"))]
    return Node(
        path=named.path_of[id(raw)],
        checks=1
        + (len(options) if isinstance(options, list) and any(isinstance(each, dict | list) for each in options) else 0)
        + (len(required) if isinstance(required, list) else 0),
        same=[
            *(part for keyword in LISTS for part in _listed(raw.get(keyword))),
            *(part for keyword in SINGLES for part in _single(raw.get(keyword))),
            *(part for keyword in MAPS for part in _mapped(raw.get(keyword))),
            *(part for keyword in REFERENCES if isinstance(raw.get(keyword), str) for part in named.find(raw, keyword)),
        ],
        again=AGAIN if "unevaluatedProperties" in raw or "unevaluatedItems" in raw else 1,
        one_of_fields=[
            *([part] for part in _mapped(raw.get("properties"))),
            [part for keyword in OTHER_FIELDS for part in _single(raw.get(keyword))],
        ],
        every_field=[*_mapped(raw.get("patternProperties")), *_single(raw.get("propertyNames"))],
        one_of_items=[
            *([part] for part in prefix),
            [part for keyword in OTHER_ITEMS for part in _single(raw.get(keyword))],
        ],
        every_item=_single(raw.get("contains")),
    )


def _single(value: Any) -> list[Schema]:
    return [value] if isinstance(value, dict) else []


def _listed(value: Any) -> list[Schema]:
    return [part for part in value if isinstance(part, dict)] if isinstance(value, list) else []


def _mapped(value: Any) -> list[Schema]:
    return [part for part in value.values() if isinstance(part, dict)] if isinstance(value, dict) else []


def children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is directly within a JSON value, each with its JSON Pointer."""
    if isinstance(value, dict):
        yield from ((f"{path}/{escaped(name)}", child) for name, child in value.items())
    elif isinstance(value, list):
        yield from ((f"{path}/{index}", child) for index, child in enumerate(value))


class _Names:
    """What references within a schema can name, by its identifiers and anchors; for a name twice there, all of it."""

    def __init__(self, schema: Schema) -> None:
        self.path_of: dict[int, str] = {}
        self._base_of: dict[int, str] = {}
        self._named: defaultdict[str, list[Schema]] = defaultdict(list, {"": [schema]})
        self._dynamic: defaultdict[str, list[Schema]] = defaultdict(list)
        self._identifier = "id" if "draft-04" in str(schema.get("$schema")) else "$id"
        waiting: list[tuple[str, str, Any]] = [("", "", schema)]
        while waiting:
            path, base, value = waiting.pop()
            if isinstance(value, dict):
                base = self._add(value, base)
                self.path_of[id(value)], self._base_of[id(value)] = path, base
            waiting += [(child_path, base, child) for child_path, child in children(path, value)]

    def _add(self, raw: Schema, base: str) -> str:
        """Note what `raw` calls itself; the base of the references within it."""
        if isinstance(name := raw.get(self._identifier), str):
            address, anchor = urldefrag(_joined(base, name))
            self._named[f"{address}#{anchor}" if anchor else address].append(raw)
            base = base if name.startswith("#") else address
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(name := raw.get(keyword), str):
                self._named[f"{base}#{name}"].append(raw)
        if isinstance(name := raw.get("$dynamicAnchor"), str):
            self._dynamic[f"#{name}"].append(raw)
        if raw.get("$recursiveAnchor") is True:
            self._dynamic["#"].append(raw)
        return base

    def find(self, raw: Schema, keyword: str) -> list[Schema]:
        """What a reference of `raw` may mean. Raises `InputInvalid` if nothing in the schema is called so."""
        base, reference = self._base_of[id(raw)], raw[keyword]
        address, fragment = urldefrag(_joined(base, reference))
        found: list[Any] = self._named.get(f"{address}#{fragment}" if fragment else address, [])
        if fragment.startswith("/"):
            found = [part for root in self._named.get(address, []) for part in _pointed(root, unquote(fragment))]
        if not found:
            raise InputInvalid.at(
                f"{self.path_of[id(raw)]}/{keyword}",
                "There is no such schema in this one, and none from elsewhere is fetched. Put it into `$defs`.",
            )
        if keyword != "$ref":
            found = [*found, *self._dynamic.get(f"#{fragment}", [])]
        return list({id(part): part for part in found if isinstance(part, dict)}.values())


def _joined(base: str, reference: str) -> str:
    if reference.startswith("#"):
        return base + reference
    try:
        return urljoin(base, reference)
    except ValueError:  # such as an address with half of a bracket
        return reference


def _pointed(value: Any, pointer: str) -> list[Any]:
    """What a JSON Pointer names: one value or none."""
    for name in names_in(pointer):
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return []
    return [value]
