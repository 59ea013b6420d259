"""Records and logs of removed containers: they go in time, and before they take too much room."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from shoald.containers import ghosts
from shoald.containers.ghosts import Ghosts
from tests.support import records


def _removed(kept: Ghosts, place: Path, container_id: str, size: int) -> None:
    log = place / container_id
    log.write_bytes(bytes(size))
    kept.remember(records.container(id=container_id), log)


async def test_they_go_in_time_where_nothing_else_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ghosts, "KEEP_S", -0.9)
    kept = Ghosts(tmp_path / "ghosts")
    monkeypatch.setattr(kept, "_forget_old", lambda: None)
    _removed(kept, tmp_path, "a" * 64, 10)
    monkeypatch.undo()
    monkeypatch.setattr(ghosts, "KEEP_S", -0.9)
    async with asyncio.timeout(5):
        while list((tmp_path / "ghosts").iterdir()):
            await asyncio.sleep(0.02)
    kept.close()


async def test_the_oldest_go_when_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ghosts, "KEEP_BYTES", 100)
    kept = Ghosts(tmp_path / "ghosts")
    for letter in "abc":
        _removed(kept, tmp_path, letter * 64, 60)
    assert [kept.get(letter * 64) is not None for letter in "abc"] == [False, False, True]
    _removed(kept, tmp_path, "d" * 64, 1000)
    assert kept.get("d" * 64) is not None
    assert kept.get("c" * 64) is None
    kept.close()
