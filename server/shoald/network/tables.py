"""Our nft tables on this host: written, changed, and watched, for others flush rules too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from shoal.errors import ShoalError
from shoald.host import nft
from shoald.network import forwarding
from shoald.network.notifications import changes
from shoald.network.rules import CHAINS, FAMILIES, IPV6, Published, Segment, elements_of, needs, rules_of, tables_script

log = structlog.get_logger(__name__)

REPAIR_TRIES = 5
"""Another program's transaction can be in the way of ours."""


class Tables:
    """The tables of one daemon. `wanted` tells what they should hold: networks and published ports."""

    def __init__(
        self, name: str, bridge: str, wanted: Callable[[], tuple[Sequence[Segment], Sequence[Published]]]
    ) -> None:
        self.name = name
        self._bridge = bridge
        self._wanted = wanted
        self._rules = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._changes: list[tuple[str, asyncio.Future[None]]] = []

    async def setup(self) -> None:
        """Make them as they should be, and see to it that they stay so. Idempotent."""
        async with self._rules:
            await self._write()
        await forwarding.admit(self._bridge)
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_rules(), name="nft-watch")

    async def rewrite(self) -> None:
        """After networks came or went. Call through `to_end`."""
        async with self._rules:
            await self._write()

    async def _write(self) -> None:
        """Replace the tables by what should be there. Holds: the lock."""
        segments, published = self._wanted()
        await nft.apply(tables_script(self.name, segments, published))
        if not needs(IPV6, segments) and await nft.list_table(IPV6.name, self.name) is not None:
            await nft.delete_table(IPV6.name, self.name)

    async def change(self, script: str) -> None:
        """Apply a small change, or replace the tables where it does not fit (somebody flushed them a moment ago).

        Changes that come while nft runs are applied together by its next run: twenty containers that start or end at
        once need two or three, not twenty. Call through `to_end`, after `wanted` includes the change.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changes.append((script, done))
        async with self._rules:
            if not done.done():
                await self._apply_changes()
        await done

    async def _apply_changes(self) -> None:
        """Holds: the lock."""
        changes, self._changes = self._changes, []
        try:
            try:
                await nft.apply("".join(script for script, _ in changes))
            except ShoalError:
                await self._write()
        except BaseException as error:  # noqa: BLE001 -- told to all who wait
            for _, done in changes:
                done.set_exception(error)
        else:
            for _, done in changes:
                done.set_result(None)

    async def _watch_rules(self) -> None:
        """Rules that somebody else flushed come back within moments: published ports are ours to keep."""
        async for _ in changes():
            for attempt in range(REPAIR_TRIES):
                try:
                    await self._repair()
                    break
                except ShoalError as error:
                    log.error("nft_repair_failed", error=str(error), attempt=attempt)
                    await asyncio.sleep(0.1 * 2**attempt)

    async def _repair(self) -> None:
        async with self._rules:
            if await self._damaged():
                log.warning("nft_rules_restored", table=self.name)
                await self._write()
        if await forwarding.admit(self._bridge):
            log.warning("forwarding_admitted", bridge=self._bridge)

    async def _damaged(self) -> bool:
        segments, published = self._wanted()
        for family in FAMILIES:
            if not needs(family, segments):
                continue
            found = await nft.list_table(family.name, self.name) or []
            chains = {o["chain"]["name"] for o in found if "chain" in o}
            rules = sum("rule" in o for o in found)
            elements = sum(len(o[kind].get("elem", [])) for o in found for kind in ("map", "set") if kind in o)
            if not chains >= CHAINS or rules < rules_of(family) or elements < elements_of(family, segments, published):
                return True
        return False

    async def teardown(self) -> None:
        """Remove them."""
        await self.close()
        for family in FAMILIES:
            if family is not IPV6 or await nft.list_table(family.name, self.name) is not None:
                await nft.delete_table(family.name, self.name)
        await forwarding.withdraw(self._bridge)

    async def close(self) -> None:
        """Stop watching; the rules stay."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
            self._watch = None
