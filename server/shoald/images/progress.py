"""Progress of one part, as often as a person can see it."""

from __future__ import annotations

import time
from collections.abc import Callable

from shoald.model.image import Progress, ProgressPhase

_INTERVAL_S = 0.1


class Meter:
    """Emits a record when the phase changes, and at most ten times a second within one."""

    def __init__(self, part: str, total: int, emit: Callable[[Progress], None]) -> None:
        self._part = part
        self._total = total
        self._emit = emit
        self._phase: ProgressPhase | None = None
        self._next = 0.0

    def phase(self, phase: ProgressPhase, done: int = 0) -> None:
        """Enter a phase."""
        self._phase = phase
        self._next = time.monotonic() + _INTERVAL_S
        self._emit(Progress(self._part, phase, done, self._total))

    def advance(self, done: int) -> None:
        """So much is done in this phase, in bytes."""
        assert self._phase is not None
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _INTERVAL_S
            self._emit(Progress(self._part, self._phase, done, self._total))

    def finished(self, phase: ProgressPhase = ProgressPhase.DONE) -> None:
        """All is done."""
        self.phase(phase, self._total)
