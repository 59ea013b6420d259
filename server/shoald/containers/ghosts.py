"""Containers that were removed a moment ago: their record and log stay readable for those who still follow them.

`run --rm` of a short command is over before its client can attach; and a client that lost the link wants the rest of
the output. Everything else of such a container is gone.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from pathlib import Path

from shoald.model.container import Container
from shoald.runtime import logchain

KEEP_S = 300.0
KEEP_AT_MOST = 256
KEEP_BYTES = 256 << 20
"""Of logs; the last one stays whatever its size."""


class Ghosts:
    """Recently removed containers by id; logs live in `directory`, which is emptied at the daemon's start."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._kept: OrderedDict[str, tuple[float, Container]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for stale in directory.iterdir():
            stale.unlink()

    def remember(self, container: Container, log_path: Path) -> None:
        """Keep the record, and move the log here, with the files before it."""
        logchain.move(log_path, self.log_path(container.id))
        self._kept[container.id] = (time.monotonic(), container)
        self._kept.move_to_end(container.id)
        self._forget_old()
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S + 1, self._timed)

    def _timed(self) -> None:
        """Logs go in time also where nothing else happens."""
        self._timer = None
        self._forget_old()
        if self._kept:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S + 1, self._timed)

    def close(self) -> None:
        """No timer any more; what is kept goes with the next start."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def get(self, id_or_prefix: str) -> Container | None:
        """The record, by full id or a unique prefix of at least 12 digits."""
        self._forget_old()
        if id_or_prefix in self._kept:
            return self._kept[id_or_prefix][1]
        if len(id_or_prefix) < 12:
            return None
        found = [container for key, (_, container) in self._kept.items() if key.startswith(id_or_prefix)]
        return found[0] if len(found) == 1 else None

    def by_request(self, request_id: str) -> Container | None:
        """The record, by the request that made it."""
        self._forget_old()
        return next((c for _, c in self._kept.values() if c.request_id == request_id), None)

    def log_path(self, container_id: str) -> Path:
        """Where its log is now."""
        return self._directory / container_id

    def _forget_old(self) -> None:
        limit = time.monotonic() - KEEP_S
        size = self._size()
        while self._kept:
            key, (at, _) = next(iter(self._kept.items()))
            large = size > KEEP_BYTES and len(self._kept) > 1
            if at >= limit and len(self._kept) <= KEEP_AT_MOST and not large:
                return
            del self._kept[key]
            logchain.remove(self.log_path(key))
            size = self._size() if large else size

    def _size(self) -> int:
        """Bytes of all logs here."""
        return sum(entry.stat().st_size for entry in os.scandir(self._directory))
