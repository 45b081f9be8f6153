"""Structured JSON logs with a correlation id on every line and never a secret."""

import logging
import re
import sys
from typing import Any

import structlog
from uuid_utils import uuid7

SECRET_NAME = re.compile(
    r"password|secret|token|cookie|authorization|signature|api_key|private|ciphertext|totp|raw_body", re.I
)
CORRELATION_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def configure_logging(level: str, *, process: str) -> None:
    """Send every log line of this process, ours and the libraries', to stderr as one JSON object."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # These log request lines or connection strings at INFO.
    for noisy in ("uvicorn.access", "httpx", "httpcore", "saq", "web3", "aiohttp"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    structlog.contextvars.bind_contextvars(process=process)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose keyword arguments become fields of the JSON line."""
    return structlog.stdlib.get_logger(name)


def correlation_id() -> str:
    """The correlation id of the current request or job; a new one where there is none yet."""
    current = structlog.contextvars.get_contextvars().get("correlation_id")
    return current if isinstance(current, str) else bind_correlation_id(None)


def bind_correlation_id(value: str | None) -> str:
    """Adopt `value` if it is a plain token of at most 128 characters, else make one; return what holds now."""
    bound = value if value and CORRELATION_ID.fullmatch(value) else uuid7().hex
    structlog.contextvars.bind_contextvars(correlation_id=bound)
    return bound


def _hide_secrets(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    for key in event:
        if SECRET_NAME.search(key):
            event[key] = "[hidden]"
    return event
