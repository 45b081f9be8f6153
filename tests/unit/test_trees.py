"""A payload as a tree: bounded, and with what is wrong in it marked wherever it is."""

import json
from typing import Any

from portal.web.trees import MAX_DEPTH, MAX_NODES, Node, tree_of


def nodes(node: Node) -> list[Node]:
    return [node, *(each for child in node.children or [] for each in nodes(child))]


def at(node: Node, *labels: str) -> Node:
    for label in labels:
        node = next(child for child in node.children or [] if child.label == label)
    return node


def test_a_value_is_named_as_rules_name_it() -> None:
    tree = tree_of({"a": [{"b c": None, "d": True}], "n": 10**30})
    assert {node.path: node.text for node in nodes(tree.root) if node.children is None} == {
        'payload.a[0]["b c"]': "null",
        "payload.a[0].d": "true",
        "payload.n": str(10**30),
    }
    assert tree.whole


def test_what_is_wrong_is_said_where_it_is() -> None:
    tree = tree_of({"a/b": [1, {"c~d": "x"}]}, {"/a~1b/1/c~0d": ["This must be a number."]})
    wrong = at(tree.root, "a/b", "1", "c~d")
    assert wrong.wrong == ["This must be a number."]
    assert tree.anchors == {"/a~1b/1/c~0d": wrong.anchor}
    assert [node.label for node in nodes(tree.root) if node.leads] == ["payload", "a/b", "1", "c~d"]


def test_the_whole_payload_can_be_wrong() -> None:
    tree = tree_of({"a": 1}, {"": ["The field b is missing."]})
    assert tree.root.wrong == ["The field b is missing."]
    assert tree.anchors[""] == tree.root.anchor


def test_a_pointer_to_nothing_marks_nothing() -> None:
    tree = tree_of({"a": [1]}, {"/a/7": ["?"], "/b": ["?"], "/a/x": ["?"]})
    assert tree.anchors == {}


def test_a_huge_payload_is_cut_but_not_what_is_wrong_in_it() -> None:
    payload: Any = {"rows": [{"n": n} for n in range(50_000)], "last": {"deep": json.loads("[" * 40 + "7" + "]" * 40)}}
    far, deep = "/rows/49999/n", "/last/deep" + "/0" * 40
    tree = tree_of(payload, {far: ["Too large."], deep: ["Too deep."]})
    assert not tree.whole
    assert at(tree.root, "rows", "49999", "n").wrong == ["Too large."]
    assert at(tree.root, "last", "deep", *["0"] * 40).text == "7"
    assert len(nodes(tree.root)) < MAX_NODES + 60
    plain = tree_of(payload["last"])
    assert not plain.whole
    assert max(node.path.count("[0]") for node in nodes(plain.root)) <= MAX_DEPTH
