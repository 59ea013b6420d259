"""Proto <-> domain for what several services share: times, platforms, labels, credentials, progress."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from shoal.platform import Platform
from shoal.v1 import types_pb2
from shoald.api.checks import invalid
from shoald.model.image import Progress, ProgressPhase, RegistryCredentials

_PHASES = {
    ProgressPhase.WAITING: types_pb2.Progress.PHASE_WAITING,
    ProgressPhase.DOWNLOADING: types_pb2.Progress.PHASE_DOWNLOADING,
    ProgressPhase.UNPACKING: types_pb2.Progress.PHASE_UNPACKING,
    ProgressPhase.UPLOADING: types_pb2.Progress.PHASE_UPLOADING,
    ProgressPhase.DONE: types_pb2.Progress.PHASE_DONE,
    ProgressPhase.EXISTS: types_pb2.Progress.PHASE_EXISTS,
}

_NS = 1_000_000_000
_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799
_LONGEST_S = 100 * 365 * 86400


def timestamp(moment: datetime | None) -> Timestamp | None:
    """UTC."""
    if moment is None:
        return None
    result = Timestamp()
    result.FromDatetime(moment)
    return result


def timestamp_of_ns(ns: int) -> Timestamp:
    """Of nanoseconds since the epoch."""
    seconds, nanos = divmod(ns, _NS)
    return Timestamp(seconds=seconds, nanos=nanos)


def timestamp_of_text(text: str | None) -> Timestamp | None:
    """Of RFC 3339; None for what is none (images hold all sorts of text)."""
    if not text:
        return None
    result = Timestamp()
    try:
        result.FromJsonString(text)
    except ValueError:
        return None
    return result


def ns_of(field: str, value: Timestamp) -> int:
    """Nanoseconds since the epoch. Raises InvalidArgument (INVALID_FIELD) for a timestamp that is none."""
    if not (_FIRST_SECOND <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < _NS):
        raise invalid(field, "is not a valid timestamp")
    return value.seconds * _NS + value.nanos


def datetime_of(field: str, value: Timestamp) -> datetime:
    """In UTC, to the microsecond. Raises InvalidArgument (INVALID_FIELD)."""
    ns_of(field, value)
    return value.ToDatetime(UTC)


def seconds_of(field: str, value: Duration) -> float:
    """Seconds; -1 means without end. Raises InvalidArgument (INVALID_FIELD) for other negative or absurd durations."""
    seconds = value.seconds + value.nanos / _NS
    if not (math.isfinite(seconds) and abs(value.nanos) < _NS and (seconds == -1 or 0 <= seconds <= _LONGEST_S)):
        raise invalid(field, "must be 0 or more seconds, or -1 for no limit")
    return seconds


def duration(seconds: float) -> Duration:
    """Of seconds."""
    whole = math.floor(seconds)
    return Duration(seconds=whole, nanos=round((seconds - whole) * _NS)) if seconds >= 0 else Duration(seconds=-1)


def platform_of(message: types_pb2.Platform) -> Platform | None:
    """None for an empty message. Raises InvalidArgument (INVALID_PLATFORM)."""
    if not (message.os or message.architecture or message.variant):
        return None
    return Platform(message.os or "linux", message.architecture or Platform.host().architecture, message.variant)


def platform(value: Platform) -> types_pb2.Platform:
    """As a message."""
    return types_pb2.Platform(os=value.os, architecture=value.architecture, variant=value.variant)


def labels_of(selectors: Iterable[types_pb2.LabelSelector]) -> tuple[tuple[str, str], ...]:
    """Pairs of key and value. Raises InvalidArgument (INVALID_FIELD) for an empty key."""
    pairs = tuple((selector.key, selector.value) for selector in selectors)
    if any(not key for key, _ in pairs):
        raise invalid("labels", "a selector has no key")
    return pairs


def credentials_of(message: types_pb2.RegistryCredentials) -> RegistryCredentials | None:
    """None for an empty message."""
    if not (message.username or message.password or message.identity_token):
        return None
    return RegistryCredentials(message.username, message.password, message.identity_token, message.registry)


def progress(record: Progress) -> types_pb2.Progress:
    """As a message."""
    return types_pb2.Progress(
        id=record.id, phase=_PHASES[record.phase], done_bytes=record.done_bytes, total_bytes=record.total_bytes
    )
