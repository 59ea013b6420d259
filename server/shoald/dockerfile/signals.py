"""STOPSIGNAL: names and numbers of Linux signals, whatever system this runs on (moby/sys signal)."""

from __future__ import annotations

_NAMES = frozenset(
    {"ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE", "POLL"}
    | {"PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG"}
    | {"USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX"}
    | {f"RTMIN+{n}" for n in range(1, 16)}
    | {f"RTMAX-{n}" for n in range(1, 15)}
)


def check_signal(signal: str) -> None:
    """Raise ValueError unless `signal` is a positive number or the name of a signal, with or without SIG."""
    if signal.removeprefix("+").isascii() and signal.removeprefix("+").isdigit():
        valid = len(signal) < 10 and int(signal) > 0
    else:
        valid = signal.upper().removeprefix("SIG") in _NAMES
    if not valid:
        raise ValueError(f"invalid signal: {signal[:200]}")
