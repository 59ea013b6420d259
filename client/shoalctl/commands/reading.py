"""The course of `shoal logs`: find the containers, read all their logs at once, print them as one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

from shoal.errors import NotFound, ShoalError
from shoalctl import exits
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient
from shoalctl.fleet.lines import Batch, Line, stamp
from shoalctl.fleet.merging import PATIENCE, merged_lines
from shoalctl.render import console
from shoalctl.render.errors import show_error, show_warning
from shoalctl.render.marks import MarkedLines

if TYPE_CHECKING:
    from shoal.v1 import container_pb2


class _Log(NamedTuple):
    """A container whose log is read. `name` as asked, `key` for the API."""

    host: HostClient
    name: str
    key: str


class Reading:
    """One `shoal logs`. A host or a container that fails is told, and does not end the others."""

    def __init__(
        self,
        fleet: Fleet,
        request: container_pb2.ContainerServiceLogsRequest,
        *,
        timestamps: bool,
        details: bool,
    ) -> None:
        self._fleet = fleet
        self._request = request
        self._timestamps = timestamps
        self._details = details
        self._failed = dict.fromkeys(fleet.names, False)
        self._inside: set[tuple[_Log, bool]] = set()  # in the middle of a line
        self._texts: dict[_Log, bytes] = {}

    async def run(self, names: list[str], labels: list[str]) -> int:
        """The exit code."""
        logs = [_Log(host, name, name) for host in self._hosts() for name in dict.fromkeys(names)]
        if labels:
            logs += await self._labelled(labels, {log.name for log in logs})
        if not logs:
            return exits.combined(self._failed.values())
        marks = {log: self._mark(log, logs) for log in logs}
        printed = MarkedLines(list(dict.fromkeys(marks.values())))
        if len(logs) == 1:
            await self._one(logs[0])
        else:
            await self._several(marks, printed)
        printed.close()
        return exits.combined(self._failed.values())

    def _hosts(self) -> list[HostClient]:
        return [self._fleet.host(name) for name in self._fleet.names]

    def _mark(self, log: _Log, logs: list[_Log]) -> str:
        """As much of host and container as is needed to tell the logs apart."""
        if len(self._fleet.names) == 1:
            return log.name
        return log.host.name if len({each.name for each in logs}) == 1 else f"{log.host.name}/{log.name}"

    async def _labelled(self, labels: list[str], named: set[str]) -> list[_Log]:
        from shoal.v1 import container_pb2

        request = container_pb2.ContainerServiceListRequest(all=True)
        for label in labels:
            key, _, value = label.partition("=")
            request.labels.add(key=key, value=value)
        found = []
        answered = False
        async for result in self._fleet.containers(request):
            if result.error is not None:
                self._fail(result.host, result.error)
                continue
            answered = True
            host = self._fleet.host(result.host)
            found += [_Log(host, item.name, item.id) for item in result.get() if item.name not in named]
        if answered and not found and not named:
            error = NotFound(f"no container has the label {' and '.join(labels)}", reason="CONTAINER_NOT_FOUND")
            show_error(error)
            self._failed = dict.fromkeys(self._failed, True)
        return sorted(found, key=lambda log: (self._fleet.names.index(log.host.name), log.name))

    def _fail(self, host: str, error: ShoalError) -> None:
        self._failed[host] = True
        show_error(error, host)

    async def _batches(self, log: _Log) -> AsyncIterator[Batch]:
        request = type(self._request)()
        request.CopyFrom(self._request)
        request.name = log.key
        if self._details:
            self._texts[log] = _details(await log.host.inspect_container(log.key))

        def gap() -> None:
            show_warning(f"lines of {log.name} are missing here: the host threw them away unread", log.host.name)

        async for batch in log.host.log_batches(request, gap):
            yield batch

    async def _one(self, log: _Log) -> None:
        plain = not self._timestamps and not self._details
        try:
            async for batch in self._batches(log):
                if plain:
                    for error, data in batch.pieces():
                        console.raw(data, error=error)
                else:
                    for line in batch.lines():
                        console.raw(self._text(log, line), error=line.stderr)
        except ShoalError as error:
            self._fail(log.host.name, error)

    async def _several(self, marks: dict[_Log, str], printed: MarkedLines) -> None:
        sources = [(log, self._batches(log)) for log in marks]
        async for log, item in merged_lines(sources, patience=PATIENCE if self._request.follow else None):
            if isinstance(item, ShoalError):
                self._fail(log.host.name, item)
            else:
                printed.update(marks[log], self._text(log, item), error=item.stderr)

    def _text(self, log: _Log, line: Line) -> bytes:
        """With what comes before a line, where it begins."""
        source = (log, line.stderr)
        text = line.data
        if source not in self._inside:
            text = self._texts.get(log, b"") + text
            if self._timestamps:
                text = stamp(line.time_ns) + b" " + text
        (self._inside.add if line.partial else self._inside.discard)(source)
        return text


def _details(inspected: container_pb2.ContainerServiceInspectResponse) -> bytes:
    """What the log options `labels` and `env` name, as docker shows it: `key=value,key=value `."""
    spec = inspected.spec
    variables = dict(entry.partition("=")[::2] for entry in spec.env)
    found = {}
    for option, values in (("labels", dict(spec.labels)), ("env", variables)):
        for key in filter(None, spec.log.options.get(option, "").split(",")):
            if key in values:
                found[key] = values[key]
    text = ",".join(f"{key}={value}" for key, value in sorted(found.items()))
    return console.printable(text).encode() + b" " if text else b""
