"""`--detach-keys`, as docker has it: `ctrl-p,ctrl-q`, `ctrl-@,x`. An empty text: no keys detach."""

from __future__ import annotations

from shoalctl.flags.fault import UsageFault

DEFAULT = "ctrl-p,ctrl-q"
_CONTROLS = "@abcdefghijklmnopqrstuvwxyz[\\]^_"


def parse_detach_keys(text: str) -> bytes:
    """The bytes that a terminal sends for the keys. Raises UsageFault."""
    return b"".join(_key(part) for part in text.split(",")) if text else b""


def _key(text: str) -> bytes:
    if len(text) == 1 and text.isascii() and text.isprintable():
        return text.encode()
    control = text.removeprefix("ctrl-")
    if control != text and len(control) == 1 and control in _CONTROLS:
        return bytes([_CONTROLS.index(control)])
    raise UsageFault(f"--detach-keys: unknown key {text!r}", hint="write for example ctrl-p,ctrl-q")


class KeyWatch:
    """Finds the keys in what a person types, across reads."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what is input, whether the keys came). Input that may be the keys' beginning waits for the next call."""
        if not self._keys:
            return data, False
        data = self._held + data
        at = data.find(self._keys)
        if at >= 0:
            return data[:at], True
        for length in range(min(len(self._keys) - 1, len(data)), 0, -1):
            if data.endswith(self._keys[:length]):
                self._held = data[-length:]
                return data[:-length], False
        self._held = b""
        return data, False
