"""The one hierarchy of errors that the daemon raises, the wire carries and the client shows.

Every error has a message for people, a stable `reason` in UPPER_SNAKE_CASE for programs, and string metadata. The gRPC
status code is a property of the class. On the wire an error is a `google.rpc.Status` whose details hold a
`google.rpc.ErrorInfo` (reason, domain `shoal`, metadata); see AIP-193.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

DOMAIN = "shoal"
"""The `domain` of every `google.rpc.ErrorInfo` that shoal makes."""


class ShoalError(Exception):
    """An error with a message, a stable reason and metadata; the base of all others.

    `code` is the name of a gRPC status code, for example "NOT_FOUND". `hint` (metadata key "hint") says what to do.
    """

    code: ClassVar[str] = "UNKNOWN"
    default_reason: ClassVar[str] = "UNKNOWN"

    def __init__(
        self,
        message: str,
        *,
        reason: str | None = None,
        hint: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata: dict[str, str] = dict(metadata or {})
        if hint is not None:
            self.metadata["hint"] = hint

    @property
    def hint(self) -> str | None:
        """What the reader can do next, or None."""
        return self.metadata.get("hint")

    def __str__(self) -> str:
        return self.message


class InvalidArgument(ShoalError):
    """The request can never succeed as it is: a bad reference, flag, Dockerfile or path."""

    code = "INVALID_ARGUMENT"
    default_reason = "INVALID_ARGUMENT"


class NotFound(ShoalError):
    """The named image, container, volume, host or file does not exist."""

    code = "NOT_FOUND"
    default_reason = "NOT_FOUND"


class AlreadyExists(ShoalError):
    """The name is taken by something else."""

    code = "ALREADY_EXISTS"
    default_reason = "ALREADY_EXISTS"


class FailedPrecondition(ShoalError):
    """The object is in a state that forbids the operation (stop it first, detach it first...)."""

    code = "FAILED_PRECONDITION"
    default_reason = "FAILED_PRECONDITION"


class Aborted(ShoalError):
    """A conflict with another operation at the same time; the caller may try again."""

    code = "ABORTED"
    default_reason = "CONFLICT"


class OutOfRange(ShoalError):
    """A cursor that is no longer kept."""

    code = "OUT_OF_RANGE"
    default_reason = "CURSOR_EXPIRED"


class PermissionDenied(ShoalError):
    """The caller is known but its role does not allow this."""

    code = "PERMISSION_DENIED"
    default_reason = "PERMISSION_DENIED"


class Unauthenticated(ShoalError):
    """The caller (or, towards a registry, the daemon) has no valid credentials."""

    code = "UNAUTHENTICATED"
    default_reason = "UNAUTHENTICATED"


class ResourceExhausted(ShoalError):
    """A full disk, a used-up address range, a limit of size or number."""

    code = "RESOURCE_EXHAUSTED"
    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(ShoalError):
    """A peer (host, registry) can't be reached or is shutting down; a retry may succeed."""

    code = "UNAVAILABLE"
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(ShoalError):
    """The time that the caller allowed is over."""

    code = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(ShoalError):
    """The operation was cancelled on request."""

    code = "CANCELLED"
    default_reason = "CANCELLED"


class Unimplemented(ShoalError):
    """This host can't do it: a missing kernel feature, an unsupported instruction."""

    code = "UNIMPLEMENTED"
    default_reason = "UNSUPPORTED"


class DataLoss(ShoalError):
    """Content that does not match its digest or size, or can't be read back."""

    code = "DATA_LOSS"
    default_reason = "CONTENT_MISMATCH"


class Internal(ShoalError):
    """A defect of shoal, or of a program that it runs; the log has more."""

    code = "INTERNAL"
    default_reason = "INTERNAL"


BY_CODE: Mapping[str, type[ShoalError]] = {
    cls.code: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        PermissionDenied,
        Unauthenticated,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Cancelled,
        Unimplemented,
        DataLoss,
        Internal,
    )
}
"""gRPC status code name -> error class; a code that is not here is a plain ShoalError."""


def from_code(code: str, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> ShoalError:
    """Make the error that the gRPC code name `code` stands for (the client's half of the translation)."""
    return BY_CODE.get(code, ShoalError)(message, reason=reason or None, metadata=metadata)
