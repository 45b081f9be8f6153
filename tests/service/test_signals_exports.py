"""Files of the history: every field exact, safe in a spreadsheet, gone after a week."""

import base64
import csv
import gzip
import hashlib
import io
import json
from datetime import timedelta

import pytest
import time_machine

from portal.db.engine import run_sql
from portal.errors import NotFound
from portal.signals.batches import exports
from portal.signals.batches.exports import delete_export, get_export, open_file, start_export
from portal.signals.batches.schemas import ExportInput
from portal.signals.errors import ExportHasNoFile
from portal.signals.jobs import prune_batches, run_batches
from portal.signals.schemas import SignalFilter
from tests.signals import make_sender

ODD = {
    "big": b'{"wei": 115792089237316195423570985008687907853269984665640564039457584007913129639935}',
    "fraction": b'{"rate": 0.1000000000000000055511151231257827, "same": 1.0, "exponent": 1E400}',
    "lines": b'{\r\n  "a": [1,\n 2],\n  "text": "two\\nlines, \\u00e9\\u2028"\n}\n',
    "unicode": '{"name": "Zoë 🦊", "nul": "\\u0000"}'.encode(),
    "formula": b'"=HYPERLINK(\\"https://evil.example\\")"',
    "bytes": b"\xff\xfe\x00not text",
    "form": b"=1+1",
    "wide": "\uff1d1+1".encode(),
    "empty": b"",
    "twice": b'{"a": 1, "a": 2}',
    "scalar": b"-5",
}


@pytest.fixture
async def sender(cast):
    sender = await make_sender(cast.alice, name='Shop, "the" +one')
    for name, body in ODD.items():
        await sender.deliver(body, id=f"d-{name}")
    return sender


async def exported(cast, format, *, compressed=False, **filter):
    export = await start_export(cast.alice.actor, ExportInput(format=format, filter=SignalFilter(**filter)))
    await run_batches()
    file = await open_file(cast.organization_id, export.id, compressed=compressed)
    return b"".join([chunk async for chunk in file.chunks])


def by_id(lines):
    return {line["external_id"].removeprefix("d-"): line for line in lines}


async def test_ndjson_holds_every_signal_exactly(cast, sender):
    content = await exported(cast, "ndjson")
    lines = content.split(b"\n")
    assert lines.pop() == b""
    assert len(lines) == len(ODD)
    found = by_id(json.loads(line, parse_int=str, parse_float=str) for line in lines)
    for name, body in ODD.items():
        line = found[name]
        kept = line["body"].encode() if line["body"] is not None else base64.b64decode(line["body_base64"])
        assert kept == body, name
        assert line["body_digest"] == hashlib.sha256(body).hexdigest()
        assert line["body_expired"] is False
    assert found["big"]["payload"]["wei"] == str(2**256 - 1)
    assert found["fraction"]["payload"] == {
        "rate": "0.1000000000000000055511151231257827",
        "same": "1.0",
        "exponent": "1E400",
    }
    assert found["lines"]["payload"] == {"a": ["1", "2"], "text": "two\nlines, é\u2028"}
    assert found["bytes"]["payload"] is None
    assert found["twice"]["payload"] is None
    assert found["twice"]["reasons"][0]["message"].startswith("The body has the field")
    [stored] = await run_sql("SELECT * FROM signal WHERE external_id = 'd-big'")
    assert found["big"]["id"] == str(stored["id"])
    assert found["big"]["secret_id"] == str(stored["secret"])
    assert found["big"]["correlation_id"] == stored["correlation_id"]
    assert found["big"]["source_name"] == 'Shop, "the" +one'


async def test_csv_is_read_back_as_it_was_and_holds_no_formula(cast, sender):
    content = await exported(cast, "csv")
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline="")))
    assert [row["external_id"] for row in rows] == [f"d-{name}" for name in reversed(ODD)]
    for row in rows:
        assert not any(value.startswith(tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")) for value in row.values()), row
    found = by_id(rows)
    assert found["lines"]["body"].encode() == ODD["lines"]
    assert found["form"]["body"] == "'=1+1"
    assert found["wide"]["body"] == "'\uff1d1+1"
    assert found["scalar"]["body"] == "'-5"
    assert base64.b64decode(found["bytes"]["body_base64"]) == ODD["bytes"]
    assert found["form"]["status"] == "quarantined"
    assert found["form"]["reasons"]
    assert content.startswith(b"id,received_at,")
    assert content.count(b"\r\nid,") == 0


async def test_the_filter_is_that_of_the_list(cast, sender):
    other = await make_sender(cast.alice)
    await other.deliver({"other": True})
    content = await exported(cast, "ndjson", source_id=other.source_id)
    assert [json.loads(line)["payload"] for line in content.splitlines()] == [{"other": True}]


async def test_nothing_found_is_a_file_with_nothing_in_it(cast, sender):
    assert await exported(cast, "ndjson", type="nothing") == b""
    assert (await exported(cast, "csv", type="nothing")).startswith(b"id,received_at,")


async def test_several_parts_are_one_file(cast, sender, monkeypatch):
    monkeypatch.setattr(exports, "SLICE_BYTES", 40)
    monkeypatch.setattr(exports, "CHUNK_BYTES", 64)
    plain = await exported(cast, "csv")
    parts = await run_sql("SELECT batch, count(*) AS number FROM export_part GROUP BY batch")
    assert parts[0]["number"] > 3
    assert gzip.decompress(await exported(cast, "csv", compressed=True)) == plain
    assert len(list(csv.reader(io.StringIO(plain.decode(), newline="")))) == len(ODD) + 1


async def test_a_file_has_a_name_and_an_end(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="csv"))
    with pytest.raises(ExportHasNoFile, match="The export is waiting"):
        await open_file(cast.organization_id, export.id)
    await run_batches()
    file = await open_file(cast.organization_id, export.id)
    assert file.name == f"signals-{export.requested_at:%Y-%m-%d}-{export.id.hex[-8:]}.csv"
    assert file.media_type.startswith("text/csv")
    seen = await get_export(cast.organization_id, export.id)
    assert seen.file_expires_at - seen.ended_at == timedelta(days=7)
    assert await prune_batches() == 0
    with time_machine.travel(seen.file_expires_at + timedelta(seconds=1)):
        assert await prune_batches() == 1
    with pytest.raises(NotFound):
        await open_file(cast.organization_id, export.id)
    assert await run_sql("SELECT 1 FROM export_part") == []


async def test_a_file_that_is_deleted_while_it_is_sent_does_not_end_as_if_it_were_whole(cast, sender, monkeypatch):
    monkeypatch.setattr(exports, "SLICE_BYTES", 40)
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await run_batches()
    file = await open_file(cast.organization_id, export.id)
    await anext(file.chunks)
    await delete_export(cast.alice.actor, export.id)
    with pytest.raises(ExportHasNoFile):
        [chunk async for chunk in file.chunks]
    with pytest.raises(ExportHasNoFile):
        await delete_export(cast.alice.actor, export.id)
    with pytest.raises(ExportHasNoFile, match="Its file is deleted"):
        await open_file(cast.organization_id, export.id)


async def test_deleting_an_export_that_is_under_way_cancels_it(cast, sender):
    export = await start_export(cast.alice.actor, ExportInput(format="ndjson"))
    await delete_export(cast.alice.actor, export.id)
    assert await run_batches() == 0
    assert (await get_export(cast.organization_id, export.id)).status == "cancelled"
    assert await run_sql("SELECT 1 FROM export_part") == []


async def test_a_body_that_has_expired_is_told_apart_from_an_empty_one(cast, sender):
    await run_sql("UPDATE signal SET body = NULL WHERE external_id = 'd-big'")
    found = by_id(json.loads(line) for line in (await exported(cast, "ndjson")).splitlines())
    assert found["big"]["body_expired"] is True
    assert (found["big"]["payload"], found["big"]["body"]) == (None, None)
    assert found["big"]["body_digest"] == hashlib.sha256(ODD["big"]).hexdigest()
    assert (found["empty"]["body_expired"], found["empty"]["body"]) == (False, "")
