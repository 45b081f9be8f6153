"""Finds signals by the words of their payloads, however many there are.

One index over words answers for rare words only: of a frequent one it names a million signals, and the newest fifty are
known when all of them have been read. So every word is indexed behind its organisation and a block of time (see
`signal_terms` in the migrations), and a search goes back from the newest signals block by block. It begins by reading
the newest few hundred signals themselves, which is all it takes for frequent words. Where blocks hold more than can be
sorted they are divided. Words of one time lie together in the index, so that adding to it stays quick as it grows.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from uuid import UUID

import msgspec

from portal.db.engine import run_sql
from portal.signals.filters import Sql, begins_at, conditions_of, newest_of
from portal.signals.schemas import SignalFilter
from portal.signals.words import terms_of

WALKED = 500
"""Signals that are read one by one before the index is asked."""
MOST = 250
"""Signals of one answer of the index that are read and sorted."""
BLOCK = 5
"""Digits of an id that are the same in a block of `signal_terms`: 2^28 milliseconds, three days."""
SMALLEST = 8
"""Digits of the smallest part of a block, about a minute; `signal_terms` has marks for 6, 7 and 8."""
WIDER = 4
"""How many times as many blocks are asked about next where there was not enough."""


class Search(msgspec.Struct, frozen=True):
    """A search as it goes back in time. `filter` has no text: that is in `terms`."""

    organization_id: UUID
    filter: SignalFilter
    terms: list[tuple[str, str]]
    limit: int


async def find_ids(
    organization_id: UUID, filter: SignalFilter, *, before: UUID | None = None, limit: int
) -> list[UUID]:
    """Up to `limit` signals that match the filter and are older than `before`, the newest first.

    A text finds what has all of its words, and the delivery that its sender calls by it. Raises `InputInvalid`.
    """
    if filter.text is None:
        return await _ids(newest_of(organization_id, filter, before=before, limit=limit))
    others = msgspec.structs.replace(filter, text=None)
    found: set[UUID] = set()
    if filter.external_id in (None, filter.text):
        named = msgspec.structs.replace(others, external_id=filter.text)
        found.update(await _ids(newest_of(organization_id, named, before=before, limit=limit)))
    if terms := terms_of(filter.text):
        found.update(await _search(Search(organization_id, others, terms, limit), before))
    return sorted(found, reverse=True)[:limit]


async def _ids(query: Sql) -> list[UUID]:
    return [row["id"] for row in await run_sql(query.text, *query.arguments)]


async def _search(search: Search, before: UUID | None) -> list[UUID]:
    found, edge = await _walk(search, before)
    if edge is None or len(found) >= search.limit:
        return found
    first = await _ids(
        Sql("SELECT id FROM signal WHERE organization = {} ORDER BY id LIMIT 1", [search.organization_id])
    )
    for blocks in _blocks(edge, max(*first, begins_at(search.filter))):
        found += await _read(search, blocks, edge, search.limit - len(found))
        if len(found) >= search.limit:
            break
    return found


async def _walk(search: Search, before: UUID | None) -> tuple[list[UUID], UUID | None]:
    """What matches among the newest signals that pass the filter, and the last of those read; None if that is all."""
    newest = newest_of(search.organization_id, search.filter, before=before, limit=WALKED)
    rows = await run_sql(
        f"""SELECT g.id, array_to_tsvector(g.words) @@ {{}}::tsquery AS matches
            FROM ({newest.text}) newest JOIN signal g ON g.id = newest.id ORDER BY g.id DESC""",  # noqa: S608
        " & ".join(f"'{word}'{star}" for word, star in search.terms),
        *newest.arguments,
    )
    edge = rows[-1]["id"] if len(rows) == WALKED else None
    return [row["id"] for row in rows if row["matches"]], edge


def _blocks(edge: UUID, oldest: UUID) -> Iterator[list[str]]:
    """Blocks from that of `edge` back to that of `oldest`, in ever larger groups."""
    left = [f"{block:0{BLOCK}x}" for block in range(int(edge.hex[:BLOCK], 16), int(oldest.hex[:BLOCK], 16) - 1, -1)]
    for size in (WIDER**power for power in count()):
        if not left:
            break
        yield left[:size]
        left = left[size:]


async def _read(search: Search, blocks: Sequence[str], edge: UUID, limit: int) -> list[UUID]:
    """The newest that match within the blocks (or a part of one) and are older than `edge`."""
    most = MOST if len(blocks[0]) < SMALLEST else 2**31
    seen, ids = await _ask_index(search, blocks, edge, limit, most)
    if seen < most:
        return ids
    found: list[UUID] = []
    for part in _parts(blocks, edge):
        found += await _read(search, part, edge, limit - len(found))
        if len(found) >= limit:
            break
    return found


def _parts(blocks: Sequence[str], edge: UUID) -> Iterator[Sequence[str]]:
    """What blocks are divided into, the newest first: groups of them, or sixteen parts of a single one."""
    if len(blocks) > 1:
        size = -(-len(blocks) // WIDER)
        yield from (blocks[at : at + size] for at in range(0, len(blocks), size))
    else:
        parts = (f"{blocks[0]}{digit:x}" for digit in range(15, -1, -1))
        yield from ([part] for part in parts if part <= edge.hex)


async def _ask_index(
    search: Search, blocks: Sequence[str], edge: UUID, limit: int, most: int
) -> tuple[int, list[UUID]]:
    """How many match, counted up to `most`; and if it is fewer, those older than `edge` that pass the filter."""
    terms = _terms(search, blocks)
    where, arguments = conditions_of(search.organization_id, search.filter)
    # A query of its own hides the words from the planner: by its statistics, which know few words, the beginning of any
    # word is in each fiftieth signal, so that it would rather read the whole table until it has seen enough.
    matching = " AND ".join(
        "signal_terms(organization, source, type, status, id, words) @@ (SELECT {}::tsquery)" for _ in terms
    )
    rows = await run_sql(
        f"""SELECT count(*) AS seen, (array_agg(g.id ORDER BY g.id DESC) FILTER (WHERE {where} AND g.id < {{}}))[:{{}}]
                   AS ids
            FROM (SELECT * FROM signal WHERE words IS NOT NULL AND {matching} LIMIT {{}}) g""",  # noqa: S608
        *arguments,
        edge,
        limit,
        *terms,
        most,
    )
    return rows[0]["seen"], rows[0]["ids"] or []


def _terms(search: Search, blocks: Sequence[str]) -> list[str]:
    """A `tsquery` for each word and for each mark of `signal_terms` that narrows them down."""
    places = [f"{block}{search.organization_id.hex[-4:]}" for block in {block[:BLOCK] for block in blocks}]
    words = [" | ".join(f"'{place}{word}'{star}" for place in places) for word, star in search.terms]
    marks = {
        "/": blocks[0] if len(blocks[0]) > BLOCK else None,
        "@": search.filter.source_id and search.filter.source_id.hex[-8:],
        "=": search.filter.type and search.filter.type[:100],
        "#": search.filter.status and search.filter.status.value,
    }
    return words + [_quoted(f"{sign}{value}") for sign, value in marks.items() if value]


def _quoted(lexeme: str) -> str:
    return "'{}'".format(lexeme.replace("\\", "\\\\").replace("'", "''"))
