"""A build's course on a terminal: finished steps stay as lines, running ones are drawn live below them."""

from __future__ import annotations

import time as clock
from collections.abc import Sequence

from shoalctl.render import console
from shoalctl.render.build_log import Step, printable_output
from shoalctl.render.human import cut, size
from shoalctl.render.progress import DONE, PHASES, short

_TAIL = 6
_FRAME = 0.08  # s between two drawings
_KEPT = 500  # lines of a step that are kept for the case of its failure


class BuildBoard:
    """See BuildView. Draws on standard error; when a step fails, its whole output is printed."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._width = max(map(len, hosts), default=0)
        self._steps: dict[tuple[str, str], Step] = {}
        self._seen: dict[tuple[str, str], float] = {}
        self._parts: dict[tuple[str, str], tuple[int, int, int]] = {}
        self._drawn = 0
        self._last = 0.0

    def started(self, host: str, step: str, title: str, time: float) -> None:
        """See BuildView."""
        self._steps[host, step] = Step(0, title, time)
        self._seen[host, step] = time
        self._draw()

    def output(self, host: str, step: str, data: bytes, time: float, *, error: bool) -> None:
        """See BuildView."""
        state = self._steps.get((host, step))
        if state is None:
            return
        self._seen[host, step] = time
        *lines, state.rest[error] = (state.rest.get(error, b"") + data).split(b"\n")
        state.lines += map(printable_output, lines)
        del state.lines[:-_KEPT]
        if clock.monotonic() - self._last >= _FRAME:
            self._draw()

    def finished(self, host: str, step: str, time: float, *, cached: bool, error: str) -> None:
        """See BuildView."""
        state = self._steps.pop((host, step), None)
        if state is None:
            return
        state.lines += [printable_output(rest) for rest in state.rest.values() if rest]
        took = "CACHED" if cached else f"{max(time - state.began, 0):.1f}s"
        lines = [self._headed(host, state.title, took)]
        if error:
            lines = [console.styled(self._headed(host, state.title, "ERROR"), "red", error=True), *state.lines]
        self._draw(lines)

    def warning(self, host: str, text: str) -> None:
        """See BuildView."""
        self._draw([self._mark(host) + console.styled(f"WARNING: {console.printable(text)}", "yellow", error=True)])

    def progress(self, host: str, part: str, phase: int, done: int, total: int) -> None:
        """See BuildView."""
        self._parts[host, part] = (phase, done, total)
        if phase in DONE:
            del self._parts[host, part]
        if clock.monotonic() - self._last >= _FRAME:
            self._draw()

    def close(self) -> None:
        """See BuildView."""
        self._steps.clear()
        self._parts.clear()
        self._draw()

    def _draw(self, done: Sequence[str] = ()) -> None:
        self._last = clock.monotonic()
        live = self._live()
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        console.err(f"\r{up}\x1b[J" + "".join(f"{line}\n" for line in (*done, *live)), end="")
        console.flush_error()
        self._drawn = len(live)

    def _live(self) -> list[str]:
        width, room = console.width() - 1, max(console.height() - 2, 4)
        lines = []
        for key, state in self._steps.items():
            lines.append(self._headed(key[0], state.title, f"{max(self._seen[key] - state.began, 0):.1f}s"))
            lines += [cut(f"   {self._mark(key[0])}{line}", width) for line in state.lines[-_TAIL:]]
        for (host, part), (phase, done, total) in self._parts.items():
            lines.append(cut(f"   {self._mark(host)}{short(part)}: {PHASES[phase]} {size(done)}/{size(total)}", width))
        return lines[-room:]

    def _headed(self, host: str, title: str, end: str) -> str:
        width = console.width() - 1
        left = cut(f" => {self._mark(host)}{title}", width - len(end) - 2)
        return f"{left:<{width - len(end) - 1}} {end}"

    def _mark(self, host: str) -> str:
        return f"{host:<{self._width}} | " if len(self._hosts) > 1 else ""
