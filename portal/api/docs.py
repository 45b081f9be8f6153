"""The page that lists every operation of the API, made from its OpenAPI description."""

import json
from html import escape
from typing import Any

from portal.errors import PortalError

METHODS = ("get", "post", "put", "delete")


def docs_page(schema: dict[str, Any]) -> bytes:
    """A page without scripts, so that it holds under the strictest content security policy."""
    operations: dict[str, list[str]] = {tag["name"]: [] for tag in schema["tags"]}
    for path, item in schema["paths"].items():
        for method in METHODS:
            if operation := item.get(method):
                operations[operation["tags"][0]].append(_operation(method, path, operation, schema))
    sections = "".join(
        f'<section id="{_anchor(tag["name"])}"><h2>{escape(tag["name"])}</h2><p>{escape(tag["description"])}</p>'
        f"{''.join(operations[tag['name']])}</section>"
        for tag in schema["tags"]
    )
    links = "".join(f'<li><a href="#{_anchor(tag["name"])}">{escape(tag["name"])}</a></li>' for tag in schema["tags"])
    info = schema["info"]
    introduction = "".join(f"<p>{_prose(part)}</p>" for part in info["description"].split("\n\n"))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API of {escape(info["title"])}</title>
<link rel="icon" href="/static/icon.svg">
<link rel="stylesheet" href="/static/api-docs.css">
</head>
<body>
<a class="skip" href="#main">Skip to the operations</a>
<nav aria-label="Resources"><p><strong>{escape(info["title"])}</strong> API {escape(info["version"])}</p>
<ul>{links}<li><a href="#problems">Problems</a></li><li><a href="/api/openapi.json">openapi.json</a></li></ul></nav>
<main id="main"><h1>API of {escape(info["title"])}</h1>{introduction}{sections}{_problems()}</main>
</body>
</html>""".encode()


def _operation(method: str, path: str, operation: dict[str, Any], schema: dict[str, Any]) -> str:
    description = f"<p>{_prose(operation['description'])}</p>" if operation.get("description") else ""
    return (
        f'<details id="{escape(operation["operationId"])}"><summary><span class="method">{method.upper()}</span> '
        f"<code>{escape(path)}</code> <span>{escape(operation['summary'])}</span></summary>"
        f"{description}{_parameters(operation)}{_body(operation, schema)}{_answers(operation, schema)}</details>"
    )


def _parameters(operation: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th scope='row'><code>{escape(parameter['name'])}</code></th><td>{escape(parameter['in'])}</td>"
        f"<td>{escape(_kind(parameter['schema']))}</td><td>{_prose(parameter.get('description', ''))}</td></tr>"
        for parameter in operation.get("parameters", [])
    )
    return f"<h3>Parameters</h3><table>{rows}</table>" if rows else ""


def _body(operation: dict[str, Any], schema: dict[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if not content:
        return ""
    examples = "".join(
        f"<pre>{escape(json.dumps(example, indent=2))}</pre>" for example in content["schema"].get("examples", [])
    )
    return f"<h3>Body</h3>{_fields(content['schema'], schema)}{examples}"


def _answers(operation: dict[str, Any], schema: dict[str, Any]) -> str:
    parts = []
    for status, answer in operation["responses"].items():
        content = answer.get("content", {}).get("application/json")
        fields = _fields(content["schema"], schema) if content else ""
        parts.append(f"<dt>{escape(status)}</dt><dd>{_prose(answer.get('description', ''))}{fields}</dd>")
    return f"<h3>Answers</h3><dl>{''.join(parts)}</dl>"


def _fields(shape: dict[str, Any], schema: dict[str, Any]) -> str:
    """The fields of an object, as a table; of the items where it is a page of a list."""
    resolved = _resolve(shape, schema)
    items = resolved.get("properties", {}).get("items", {}).get("items")
    if items:
        return f"<p>A page of:</p>{_fields(items, schema)}"
    required = resolved.get("required", [])
    rows = "".join(
        f"<tr><th scope='row'><code>{escape(name)}</code></th><td>{escape(_kind(kind))}</td>"
        f"<td>{'' if name in required else 'optional'}</td></tr>"
        for name, kind in resolved.get("properties", {}).items()
    )
    return f"<table>{rows}</table>" if rows else ""


def _resolve(shape: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if len(shape.get("allOf", [])) == 1:
        return _resolve(shape["allOf"][0], schema)
    if "$ref" in shape:
        found: dict[str, Any] = schema["components"]["schemas"][shape["$ref"].rpartition("/")[2]]
        return found
    return shape


def _kind(shape: dict[str, Any]) -> str:
    """A type in a few words."""
    if "$ref" in shape:
        return str(shape["$ref"].rpartition("/")[2].rpartition("_")[2])
    if "enum" in shape:
        return " | ".join(str(value) for value in shape["enum"] if value is not None)
    for several in ("oneOf", "anyOf"):
        if several in shape:
            return " | ".join(dict.fromkeys(_kind(inner) for inner in shape[several]))
    if shape.get("type") == "array":
        return f"list of {_kind(shape.get('items', {}))}"
    kind = shape.get("type", "any JSON value")
    kinds = kind if isinstance(kind, list) else [kind]
    return " | ".join(str(shape.get("format", each)) if each == "string" else str(each) for each in kinds)


def _problems() -> str:
    kinds = sorted({(kind.status, kind.__new__(kind).code, kind.title) for kind in _all_kinds(PortalError)})
    rows = "".join(
        f'<tr id="problem-{code}"><th scope="row"><code>{code}</code></th>'
        f"<td>{status}</td><td>{escape(title)}</td></tr>"
        for status, code, title in kinds
    )
    return (
        f'<section id="problems"><h2>Problems</h2><p>What <code>code</code> can be.</p><table>{rows}</table></section>'
    )


def _all_kinds(kind: type[PortalError]) -> list[type[PortalError]]:
    return [each for child in kind.__subclasses__() for each in (child, *_all_kinds(child))]


def _prose(text: str) -> str:
    """Text with `code` in backticks."""
    parts = text.split("`")
    return "".join(f"<code>{escape(part)}</code>" if place % 2 else escape(part) for place, part in enumerate(parts))


def _anchor(tag: str) -> str:
    return tag.lower().replace(" ", "-")
