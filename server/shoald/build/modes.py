"""`--chmod`: octal modes, and symbolic ones as chmod(1) takes them; pure."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass

from shoal.errors import InvalidArgument

_CLAUSE = re.compile(r"([ugoa]*)((?:[+\-=](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([+\-=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


@dataclass(frozen=True)
class ModeChange:
    """What --chmod does to a mode."""

    text: str

    def apply(self, mode: int, *, directory: bool) -> int:
        """The new permission bits. The umask counts for nothing, as in BuildKit."""
        if self.text.isdigit():
            return stat.S_IMODE(int(self.text, 8))
        for clause in self.text.split(","):
            mode = _applied(clause, mode, directory)
        return mode


def mode_change(text: str) -> ModeChange | None:
    """None for "". Raises InvalidArgument (INVALID_CHMOD)."""
    if not text:
        return None
    octal = re.fullmatch("[0-7]{1,5}", text) is not None and int(text, 8) <= 0o7777
    if not octal and not all(_CLAUSE.fullmatch(clause) for clause in text.split(",")):
        raise InvalidArgument(f"invalid chmod parameter: {text!r}", reason="INVALID_CHMOD", hint="0755 or u=rwX,go=rX")
    return ModeChange(text)


def _applied(clause: str, mode: int, directory: bool) -> int:
    found = _CLAUSE.fullmatch(clause)
    assert found is not None
    who = set(found[1]) or {"a"}
    classes = "ugo" if "a" in who else "".join(sorted(who))
    for operator, what in _ACTION.findall(found[2]):
        bits = 0
        for each in classes:
            bits |= _permissions(what, mode, directory) << _SHIFTS[each]
        if "s" in what:
            bits |= (stat.S_ISUID if "u" in classes else 0) | (stat.S_ISGID if "g" in classes else 0)
        if "t" in what and "o" in classes:
            bits |= stat.S_ISVTX
        if operator == "+":
            mode |= bits
        elif operator == "-":
            mode &= ~bits
        else:
            mode = (mode & ~_covered(classes, directory)) | bits
    return mode


def _permissions(what: str, mode: int, directory: bool) -> int:
    if what in ("u", "g", "o"):
        return mode >> _SHIFTS[what] & 7
    bits = sum(_BITS[letter] for letter in set(what) & _BITS.keys())
    if "X" in what and (directory or mode & 0o111):
        bits |= 1
    return bits


def _covered(classes: str, directory: bool) -> int:
    """What `=` clears; set-user-id and set-group-id of directories stay, as in GNU chmod."""
    covered = sum(7 << _SHIFTS[each] for each in classes)
    if not directory:
        covered |= (stat.S_ISUID if "u" in classes else 0) | (stat.S_ISGID if "g" in classes else 0)
    return covered | (stat.S_ISVTX if "o" in classes else 0)
