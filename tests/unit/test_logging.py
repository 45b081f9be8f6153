"""Log lines are JSON, carry the correlation id, and hold no secret."""

import json
import logging
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.logging import CORRELATION_ID, bind_correlation_id, configure_logging, correlation_id, get_logger


def lines_of(capsys: pytest.CaptureFixture[str], act: Callable[[], None]) -> str:
    """What `act` writes to the log of a process of ours."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure_logging("info", process="test")
    try:
        act()
    finally:
        root.handlers, root.level = handlers, level
    return capsys.readouterr().err


def test_a_line_says_what_happened_and_under_which_correlation_id(capsys: pytest.CaptureFixture[str]) -> None:
    bind_correlation_id("delivery-7")
    line = json.loads(lines_of(capsys, lambda: get_logger("portal.test").info("signal.received", count=3)))
    assert line["event"] == "signal.received"
    assert line["correlation_id"] == "delivery-7"
    assert line["count"] == 3
    assert line["process"] == "test"


@pytest.mark.parametrize("name", ["password", "totp_secret", "session_token", "Authorization", "signer_private_key"])
def test_a_field_that_sounds_like_a_secret_is_hidden(capsys: pytest.CaptureFixture[str], name: str) -> None:
    line = lines_of(capsys, lambda: get_logger("portal.test").warning("something", **{name: "hunter2"}))
    assert "something" in line
    assert "hunter2" not in line


def test_lines_of_libraries_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    line = lines_of(capsys, lambda: logging.getLogger("somebody.else").warning("hello\nthere"))
    assert json.loads(line)["event"] == "hello\nthere"


@given(st.text(max_size=200))
def test_only_a_plain_token_is_adopted_as_correlation_id(sent: str) -> None:
    bound = bind_correlation_id(sent)
    assert CORRELATION_ID.fullmatch(bound)
    assert bound == correlation_id()
    assert (bound == sent) == bool(CORRELATION_ID.fullmatch(sent))
