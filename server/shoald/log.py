"""Structured logs on standard error: JSON lines for machines, readable ones at a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog

Level = Literal["debug", "info", "warning", "error"]

# Names of fields whose values never belong into a log, whoever puts them there.
_SECRET = frozenset({"password", "identity_token", "token", "authorization", "credentials", "secret", "key_pem"})


def configure(level: Level, style: Literal["auto", "json", "console"] = "auto") -> None:
    """Set up structlog for the process; may be called again to change the level."""
    readable = style == "console" or (style == "auto" and sys.stderr.isatty())
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _redact,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    factory: Any
    if readable:
        # Errors are already told apart by their text; rich's tracebacks would cost memory for nothing.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        processors += [renderer]
        factory = structlog.PrintLoggerFactory(sys.stderr)
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)]
        factory = structlog.BytesLoggerFactory(sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=factory,
        # The level changes while the daemon runs: loggers must look it up.
        cache_logger_on_first_use=False,
    )
    # Libraries speak through logging: let their warnings through.
    logging.basicConfig(
        level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s", force=True
    )


def _dumps(event: Any, **_: Any) -> bytes:
    import msgspec

    return msgspec.json.encode(event, enc_hook=str)


def _redact(_: Any, __: str, event: Any) -> Any:
    for name in _SECRET & event.keys():
        event[name] = "[redacted]"
    return event
