"""A build's course as lines, in BuildKit's style: `#3 [build 2/5] RUN make`, `#3 0.512 output`, `#3 DONE 1.2s`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shoalctl.render import console
from shoalctl.render.human import size
from shoalctl.render.progress import PHASES, SENDING, short


@dataclass(slots=True)
class Step:
    """A step under way; `began` in seconds since the epoch."""

    number: int
    title: str
    began: float
    rest: dict[bool, bytes] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class BuildView(Protocol):
    """Shows the builds of some hosts. Times are seconds since the epoch, of the host's clock."""

    def started(self, host: str, step: str, title: str, time: float) -> None:
        """A step begins; `title` is its name and instruction."""

    def output(self, host: str, step: str, data: bytes, time: float, *, error: bool) -> None:
        """A step has written something: whole lines or not."""

    def finished(self, host: str, step: str, time: float, *, cached: bool, error: str) -> None:
        """A step has ended; an empty `error`: well."""

    def warning(self, host: str, text: str) -> None:
        """A build check has something to say."""

    def progress(self, host: str, part: str, phase: int, done: int, total: int) -> None:
        """A base image's part has got on."""

    def close(self) -> None:
        """No more events."""


class PlainBuild:
    """Lines on standard error as things happen, marked with the host when there are several."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._width = max(map(len, hosts), default=0)
        self._steps: dict[tuple[str, str], Step] = {}
        self._count: dict[str, int] = {}
        self._phases: dict[tuple[str, str], int] = {}

    def started(self, host: str, step: str, title: str, time: float) -> None:
        """See BuildView."""
        number = self._count[host] = self._count.get(host, 0) + 1
        self._steps[host, step] = Step(number, title, time)
        self._line(host, console.styled(f"#{number} {title}", "bold", error=True))

    def output(self, host: str, step: str, data: bytes, time: float, *, error: bool) -> None:
        """See BuildView."""
        state = self._steps.get((host, step))
        if state is None:
            return
        *lines, state.rest[error] = (state.rest.get(error, b"") + data).split(b"\n")
        for line in lines:
            self._output_line(host, state, line, time)

    def finished(self, host: str, step: str, time: float, *, cached: bool, error: str) -> None:
        """See BuildView."""
        state = self._steps.pop((host, step), None)
        if state is None:
            return
        for rest in filter(None, state.rest.values()):
            self._output_line(host, state, rest, time)
        if error:
            self._line(host, console.styled(f"#{state.number} ERROR: {console.printable(error)}", "red", error=True))
        else:
            self._line(host, f"#{state.number} {'CACHED' if cached else f'DONE {max(time - state.began, 0):.1f}s'}")

    def warning(self, host: str, text: str) -> None:
        """See BuildView."""
        self._line(host, console.styled(f"WARNING: {console.printable(text)}", "yellow", error=True))

    def progress(self, host: str, part: str, phase: int, done: int, total: int) -> None:
        """See BuildView."""
        if self._phases.get((host, part)) != phase and phase != 1:
            self._phases[host, part] = phase
            amount = f" ({size(total)})" if total and phase in (2, SENDING) else ""
            self._line(host, f"{short(part)}: {PHASES[phase]}{amount}")

    def close(self) -> None:
        """See BuildView."""

    def _output_line(self, host: str, state: Step, line: bytes, time: float) -> None:
        text = printable_output(line)
        self._line(host, f"#{state.number} {max(time - state.began, 0):.3f} {text}".rstrip())

    def _line(self, host: str, text: str) -> None:
        mark = f"{host:<{self._width}} | " if len(self._hosts) > 1 else ""
        console.err(mark + text)


class JsonBuild:
    """A JSON object for each event, on standard output."""

    def started(self, host: str, step: str, title: str, time: float) -> None:
        """See BuildView."""
        _emit(host, "started", step=step, title=title, time=time)

    def output(self, host: str, step: str, data: bytes, time: float, *, error: bool) -> None:
        """See BuildView."""
        stream = "stderr" if error else "stdout"
        _emit(host, "output", step=step, stream=stream, text=data.decode("utf-8", "replace"), time=time)

    def finished(self, host: str, step: str, time: float, *, cached: bool, error: str) -> None:
        """See BuildView."""
        _emit(host, "finished", step=step, cached=cached, error=error, time=time)

    def warning(self, host: str, text: str) -> None:
        """See BuildView."""
        _emit(host, "warning", text=text)

    def progress(self, host: str, part: str, phase: int, done: int, total: int) -> None:
        """See BuildView."""
        _emit(host, "progress", id=part, phase=PHASES[phase], done=done, total=total)

    def close(self) -> None:
        """See BuildView."""


class QuietBuild:
    """Nothing."""

    def started(self, host: str, step: str, title: str, time: float) -> None:
        """See BuildView."""

    def output(self, host: str, step: str, data: bytes, time: float, *, error: bool) -> None:
        """See BuildView."""

    def finished(self, host: str, step: str, time: float, *, cached: bool, error: str) -> None:
        """See BuildView."""

    def warning(self, host: str, text: str) -> None:
        """See BuildView."""

    def progress(self, host: str, part: str, phase: int, done: int, total: int) -> None:
        """See BuildView."""

    def close(self) -> None:
        """See BuildView."""


def printable_output(line: bytes) -> str:
    """A step's line for the terminal: what follows the last carriage return, without control characters."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode("utf-8", "replace").expandtabs(8)
    return _without_escapes(text)


def _without_escapes(text: str) -> str:
    import re

    return console.printable(re.sub(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[@-_])", "", text))


def _emit(host: str, event: str, **values: Any) -> None:
    console.out(json.dumps({"Host": host, "event": event, **values}, ensure_ascii=False))
    console.flush()
