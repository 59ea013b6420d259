"""What a build tells of itself: steps with their numbers, warnings, and the place of errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from shoal.errors import ShoalError
from shoal.platform import Platform
from shoald.dockerfile import instructions as ins
from shoald.dockerfile.checks import Finding
from shoald.dockerfile.errors import Span
from shoald.dockerfile.graph import StagePlan
from shoald.dockerfile.state import StageState
from shoald.model.build import BuildWarning, StepFinished, StepLog, StepStarted

if TYPE_CHECKING:
    from shoald.build.solver import Build

MAKERS = (ins.Run, ins.Copy, ins.Add, ins.Workdir)


class Steps:
    """Numbers the steps of a stage and tells of them."""

    def __init__(self, build: Build, stage: StagePlan) -> None:
        self._emit = build.emit
        self._stage = stage
        self.number = 0
        self._total = 1 + sum(isinstance(i, MAKERS) for i in stage.instructions)

    def count(self, state: StageState) -> None:
        """Triggers of the base add steps."""
        self._total = self.number + sum(isinstance(i, MAKERS) for i in state.instructions)

    @property
    def _id(self) -> str:
        return f"{self._stage.index}-{self.number}"

    def begin(self, text: str, span: Span) -> None:
        """A step begins."""
        self.number += 1
        total = max(self._total, self.number)
        self._emit(StepStarted(self._id, self._stage.label, self.number, total, text, span.start, span.end))

    def log(self, stderr: bool, data: bytes) -> None:
        """What it writes."""
        self._emit(StepLog(self._id, stderr, data))

    def end(self, *, cached: bool = False, error: str = "") -> None:
        """It ended."""
        self._emit(StepFinished(self._id, cached, error))


def of_platform(emit: Callable[[object], None], platform: Platform, *, first: bool) -> Callable[[object], None]:
    """Events of one platform among several: steps have it in their names. Warnings come from the `first` only."""

    def named(event: object) -> None:
        match event:
            case StepStarted():
                stage = f"{platform} {event.stage}"
                emit(replace(event, step_id=f"{platform} {event.step_id}", stage=stage))
            case StepLog() | StepFinished():
                emit(replace(event, step_id=f"{platform} {event.step_id}"))
            case BuildWarning() if not first:
                pass
            case _:
                emit(event)

    return named


def warning(finding: Finding) -> BuildWarning:
    """A finding of the build checks as an event."""
    return BuildWarning(finding.rule, finding.message, finding.start_line, finding.end_line)


def placed(error: ShoalError, span: Span, build: Build) -> ShoalError:
    """The error with its place in the Dockerfile."""
    error.metadata.setdefault("file", build.plan.filename)
    error.metadata.setdefault("start_line", str(span.start))
    error.metadata.setdefault("end_line", str(span.end))
    return error
