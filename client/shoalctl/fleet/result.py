"""What one host answered."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from shoal.errors import ShoalError

T = TypeVar("T")


class HostResult(NamedTuple, Generic[T]):
    """A host's name with either its value or the error that kept it from giving one."""

    host: str
    value: T | None = None
    error: ShoalError | None = None

    @property
    def ok(self) -> bool:
        """Whether the host did what it was asked."""
        return self.error is None

    def get(self) -> T:
        """The value. Raises the error when there is one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]
