"""What is found out about containers, behind one face; see engine.control_ports.InsightUses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from shoald.engine.changes import ChangesCases
from shoald.engine.commit import CommitCases
from shoald.engine.stats import StatsCases
from shoald.engine.top import TopCases
from shoald.model.image import Image
from shoald.model.insight import Change, ProcessTable, StatsSample


class InsightCases:
    """Top, stats, changes, commit."""

    def __init__(self, top: TopCases, stats: StatsCases, changes: ChangesCases, commit: CommitCases) -> None:
        self._top = top
        self._stats = stats
        self._changes = changes
        self._commit = commit

    async def top(self, name: str, arguments: Sequence[str]) -> ProcessTable:
        """See InsightUses."""
        return await self._top.top(name, arguments)

    def stats(self, names: Sequence[str], one_shot: bool, interval_s: float = 1.0) -> AsyncIterator[list[StatsSample]]:
        """See InsightUses."""
        return self._stats.stats(names, one_shot, interval_s)

    def changes(self, name: str) -> AsyncIterator[list[Change]]:
        """See InsightUses."""
        return self._changes.changes(name)

    async def commit(
        self,
        request_id: str,
        name: str,
        reference: str,
        author: str,
        message: str,
        changes: Sequence[str],
        pause: bool,
    ) -> Image:
        """See InsightUses."""
        return await self._commit.commit(request_id, name, reference, author, message, changes, pause)
