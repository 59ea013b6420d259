"""Progress of pulls and pushes: live lines on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from shoalctl.render import console
from shoalctl.render.human import cut, size

PHASES = ("", "Waiting", "Downloading", "Extracting", "Pushing", "Complete", "Already exists", "Sending")
"""Words of the phases, by their number in the API; the last is the client's own."""
DONE = (5, 6)
SENDING = 7
_FRAME = 0.08  # s between two drawings
_BAR = 20


@dataclass(slots=True)
class _Part:
    phase: int = 0
    done: int = 0
    total: int = 0


@dataclass(slots=True)
class ProgressBoard:
    """Standard error's picture of many parts on many hosts. `update` draws; `close` leaves the last picture."""

    hosts: Sequence[str]
    quiet: bool = False
    _parts: dict[tuple[str, str], _Part] = field(default_factory=dict)
    _drawn: int = 0
    _last: float = 0.0

    def update(self, host: str, part: str, phase: int, done: int, total: int) -> None:
        """Take a record: the part (a digest) is now in this phase with so many bytes done."""
        if self.quiet:
            return
        state = self._parts.setdefault((host, part), _Part())
        changed = state.phase != phase
        state.phase, state.done, state.total = phase, done, total
        if not console.is_terminal(error=True):
            if changed and phase != 1:
                console.err(self._plain(host, part, state))
            return
        now = time.monotonic()
        if now - self._last >= _FRAME:
            self._last = now
            self._draw()

    def close(self) -> None:
        """Draw the end state, or wipe nothing when nothing was drawn."""
        if self._parts and not self.quiet and console.is_terminal(error=True):
            self._draw()
        self._drawn = 0
        self._parts.clear()

    def _plain(self, host: str, part: str, state: _Part) -> str:
        amount = f" ({size(state.total)})" if state.total and state.phase in (2, 4) else ""
        return f"{self._mark(host)}{short(part)}: {PHASES[state.phase]}{amount}"

    def _draw(self) -> None:
        lines = self._lines()
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        body = "".join(f"\x1b[2K{line}\n" for line in lines)
        console.err(f"{up}\r{body}\x1b[J", end="")
        console.flush_error()
        self._drawn = len(lines)

    def _lines(self) -> list[str]:
        width = console.width() - 1
        lines = [cut(self._live(host, part, state), width) for (host, part), state in self._parts.items()]
        room = max(console.height() - 2, 4)
        if len(lines) <= room:
            return lines
        active = [key for key, state in self._parts.items() if state.phase not in DONE]
        done = len(self._parts) - len(active)
        shown = [cut(self._live(*key, self._parts[key]), width) for key in active[: room - 1]]
        return [f"{done} of {len(self._parts)} parts complete", *shown]

    def _live(self, host: str, part: str, state: _Part) -> str:
        if state.phase in DONE or not state.total:
            return f"{self._mark(host)}{short(part)}: {PHASES[state.phase]}"
        filled = min(_BAR, _BAR * state.done // state.total)
        bar = "=" * filled + ">" * (filled < _BAR) + " " * (_BAR - filled - 1)
        amount = f"{size(state.done)}/{size(state.total)}"
        return f"{self._mark(host)}{short(part)}: {PHASES[state.phase]:<11} [{bar}] {amount}"

    def _mark(self, host: str) -> str:
        if len(self.hosts) < 2:
            return ""
        return f"{host:<{max(map(len, self.hosts))}} | "


def short(digest: str) -> str:
    """The first twelve digits of a digest."""
    return digest.rpartition(":")[2][:12]
