"""Use case: the processes of a container, as the host's ps(1) shows them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.containers.lifecycle import Publish, event_attributes
from shoald.host import cgroups, process
from shoald.host.cgroups import Cgroups
from shoald.metadata.store import Metadata
from shoald.model.container import ContainerState
from shoald.model.insight import ProcessTable

DEFAULT = ("-ef",)
MOST_CHOSEN = 10_000
"""Ids that one argument of a program can hold."""
_WORD = re.compile(r"[A-Za-z0-9_%=,:.+-]{1,200}")


class TopCases:
    """Runs ps with arguments that only choose columns and order."""

    def __init__(self, md: Metadata, host: Cgroups, cgroup_parent: str, publish: Publish) -> None:
        self._md = md
        self._publish = publish
        self._host = host
        self._parent = cgroup_parent.rstrip("/")

    async def top(self, name: str, arguments: Sequence[str]) -> ProcessTable:
        """Raises FailedPrecondition (NOT_RUNNING), InvalidArgument (INVALID_PS_ARGUMENTS, also where ps says so)."""
        container = self._md.containers.find(name)
        if container.state not in (ContainerState.RUNNING, ContainerState.PAUSED):
            raise FailedPrecondition(f"container {container.name} is not running", reason="NOT_RUNNING")
        if any(not _WORD.fullmatch(word) for word in arguments):
            raise InvalidArgument("these arguments are not for ps here", reason="INVALID_PS_ARGUMENTS")
        self._publish("container", "top", container.id, event_attributes(container))
        pids = cgroups.processes(self._host, f"{self._parent}/{container.id}")
        asked = ["ps", *(arguments or DEFAULT)]
        only = ["-q", ",".join(map(str, sorted(pids)))] if 0 < len(pids) <= MOST_CHOSEN else []
        done = await process.run([*asked, *only], check=False, timeout=30)
        if done.returncode != 0 and not done.stdout.strip():
            # Some options do not go with a choice of processes.
            done = await process.run(asked, check=False, timeout=30)
        if done.returncode != 0:
            words = done.stderr.decode(errors="replace").strip().splitlines() or ["ps failed"]
            raise InvalidArgument(words[0], reason="INVALID_PS_ARGUMENTS")
        return table_of(done.stdout.decode(errors="replace"), pids)


def table_of(text: str, pids: Collection[int]) -> ProcessTable:
    """The rows of these processes; pure. The last column keeps its blanks. Raises InvalidArgument
    (INVALID_PS_ARGUMENTS) without a column PID."""
    lines = text.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidArgument("couldn't find PID field in ps output", reason="INVALID_PS_ARGUMENTS")
    column = titles.index("PID")
    rows = []
    for line in lines[1:]:
        fields = line.split(None, len(titles) - 1)
        if len(fields) > column and fields[column].isdigit() and int(fields[column]) in pids:
            rows.append(tuple(fields))
    return ProcessTable(tuple(titles), tuple(rows))
