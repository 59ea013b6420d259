"""Lines of several hosts, each marked with its host in front: `web1 | hello`."""

from __future__ import annotations

from collections.abc import Sequence

from shoalctl.render import console
from shoalctl.render.table import display_width


class MarkedLines:
    """Writes the output of several sources so that no line mixes two of them. With one source, bytes pass unchanged.

    `update` takes a piece with or without its newline; `close` ends what is left of unfinished lines.
    """

    def __init__(self, names: Sequence[str], *, always: bool = False) -> None:
        self._marked = always or len(names) > 1
        self._width = max(map(display_width, names), default=0)
        self._order = {name: at for at, name in enumerate(names)}
        self._rest: dict[tuple[str, bool], bytes] = {}

    def update(self, name: str, data: bytes, *, error: bool = False) -> None:
        """Print what makes whole lines; the rest waits."""
        if not self._marked:
            console.raw(data, error=error)
            return
        *lines, rest = (self._rest.pop((name, error), b"") + data).split(b"\n")
        if rest:
            self._rest[name, error] = rest
        if lines:
            mark = self._mark(name, error=error)
            console.raw(b"".join(mark + line + b"\n" for line in lines), error=error)

    def line(self, name: str, text: str) -> None:
        """Print a line of text to standard output."""
        self.update(name, text.encode() + b"\n")

    def close(self) -> None:
        """Print unfinished lines."""
        for (name, error), rest in self._rest.items():
            console.raw(self._mark(name, error=error) + rest + b"\n", error=error)
        self._rest.clear()

    def _mark(self, name: str, *, error: bool) -> bytes:
        padded = name + " " * (self._width - display_width(name)) + " | "
        if not console.colours(error=error):
            return padded.encode()
        return f"{console.host_colour(self._order.get(name, 0))}{padded}\x1b[0m".encode()
