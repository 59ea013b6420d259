"""Where a host's CDI specifications are, and which of them can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shoal.errors import ShoalError
from shoald.host.trusted import read_trusted
from shoald.runtime.cdi import CdiFile, CdiLibrary, library, parse_spec
from shoald.runtime.cdi_yaml import YAML_SUFFIXES

_SUFFIXES = (".json", *YAML_SUFFIXES)
_MAX_BYTES = 1 << 20


def cdi_library(directories: Sequence[Path]) -> CdiLibrary:
    """Everything that is described now; in later directories is what wins. Blocking.

    A file that can't be read, or that others than root could have written, is noted as unusable: it concerns nobody
    who asks for other devices. What it names would be run and mounted as root.
    """
    found: dict[str, list[CdiFile]] = {}
    unusable: dict[str, str] = {}
    places: dict[Path, str] = {}
    for path in directories:
        # /var/run is mostly a link to /run.
        places.setdefault(path.resolve(), str(path))
    for directory, named in places.items():
        files = found[named] = []
        for path in sorted(directory.glob("*")):
            if path.suffix not in _SUFFIXES:
                continue
            try:
                files.append(CdiFile(str(path), parse_spec(read_trusted(path, _MAX_BYTES), str(path))))
            except ShoalError as error:
                unusable[str(path)] = error.message
    return library(found, unusable)
