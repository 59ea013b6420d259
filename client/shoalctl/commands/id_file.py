"""The file that takes the id of what a command makes: `--cidfile`, `--iidfile`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO

from shoal.errors import FailedPrecondition
from shoalctl.flags.fault import UsageFault


class IdFile:
    """A file that is open for the time of a `with` block, and gone after it where no id was written."""

    def __init__(self, flag: str, path: str, *, new: bool) -> None:
        """`path` may be empty: no file. `new`: one that exists is refused, else it loses what it holds."""
        self._flag = flag
        self._path = path
        self._mode = "x" if new else "w"
        self._file: IO[str] | None = None
        self._written = False

    def __enter__(self) -> IdFile:
        """Raises UsageFault when the file can't be made."""
        if not self._path:
            return self
        try:
            self._file = open(self._path, self._mode, encoding="utf-8")
        except FileExistsError:
            raise UsageFault(f"{self._flag}: {self._path} exists already") from None
        except OSError as error:
            raise UsageFault(f"{self._flag}: can't write {self._path}: {error.strerror}") from error
        return self

    def write(self, text: str) -> None:
        """Write the id. Raises FailedPrecondition (reason FILE_UNWRITABLE) that tells it."""
        if self._file is None:
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            raise FailedPrecondition(
                f"{self._flag}: can't write {self._path}: {error.strerror}",
                reason="FILE_UNWRITABLE",
                hint=f"the id is {text}",
            ) from error
        self._written = True

    def __exit__(self, *_: object) -> None:
        if self._file is None:
            return
        with suppress(OSError):
            self._file.close()
        # Not a device or a pipe, which was there before.
        if not self._written and Path(self._path).is_file():
            with suppress(OSError):
                Path(self._path).unlink()
