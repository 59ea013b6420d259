"""The course of `shoal build`: the context to all hosts at once, their events to the view, ids in the end."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any

from shoal.errors import ShoalError
from shoalctl import exits
from shoalctl.commands.build_caches import LocalCaches
from shoalctl.commands.build_options import BuildOptions
from shoalctl.commands.build_outputs import check_outputs, deliver
from shoalctl.commands.debugging import HINT, failed_line, open_shell
from shoalctl.commands.id_file import IdFile
from shoalctl.flags.dockerfile import Source, external_domain
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.git_url import is_git_url
from shoalctl.fleet.building import Build
from shoalctl.fleet.fleet import Fleet
from shoalctl.fleet.host import HostClient
from shoalctl.fleet.result import HostResult
from shoalctl.render import console
from shoalctl.render.build_board import BuildBoard
from shoalctl.render.build_log import BuildView, JsonBuild, PlainBuild, QuietBuild
from shoalctl.render.errors import show_error
from shoalctl.render.marks import MarkedLines
from shoalctl.render.progress import DONE, SENDING
from shoalctl.render.source_excerpt import excerpt

if TYPE_CHECKING:
    from shoal.v1 import image_pb2, types_pb2
    from shoalctl.commands.choosing import Builder
    from shoalctl.commands.combining import Made

_WORTH_A_LINE = 1 << 20  # bytes
_CLEANUP = 10.0  # s for telling the hosts that the build is cancelled


class Building:
    """One `shoal build` on the hosts of a fleet."""

    def __init__(self, fleet: Fleet, options: BuildOptions) -> None:
        self._fleet = fleet
        self._options = options
        self._view = build_view(options.progress, fleet.names)
        self._builds: dict[str, Build] = {}
        self._combined = False
        """What several hosts build becomes one index."""
        self._caches = LocalCaches(options, self._view)
        self._iidfile = IdFile("--iidfile", options.iidfile, new=False)

    async def run(self) -> int:
        """The exit code."""
        options = self._options
        if options.iidfile and len(self._fleet.names) > 1 and not options.once:
            raise UsageFault("--iidfile needs a single host")
        if options.debug and len(self._fleet.names) > 1:
            raise UsageFault("--debug needs a single host", hint="choose one with -H")
        if options.debug and len(options.platforms) > 1:
            raise UsageFault("--debug needs a single platform")
        if options.detach and options.debug:
            raise UsageFault("--detach leaves nobody here to --debug")
        if options.detach and options.distribute:
            raise UsageFault("--detach leaves nobody here to --distribute the result")
        hosts = self._fleet.names[:1] if options.once else self._fleet.names
        check_outputs(options, hosts)
        LocalCaches.check(options, hosts)
        with self._iidfile, ExitStack() as stack:
            if is_git_url(options.path):
                from shoalctl.fleet.git_context import checked_out

                directory = await asyncio.to_thread(stack.enter_context, checked_out(options.path))
                self._options = options.at(directory)
            return await self._run()

    async def _run(self) -> int:
        options = self._options
        source, context = await asyncio.to_thread(options.source)
        named = await asyncio.to_thread(options.named_contexts)
        start = options.start(source, await self._credentials(source), await self._cache_credentials())
        await asyncio.to_thread(self._caches.prepare)
        self._caches.tell(start)
        results: list[HostResult[Made | None]] = []
        chosen: list[Builder] = []
        if options.once and len(self._fleet.names) > 1:
            chosen, silent = await self._chosen(start, {"": context, **named})
            results += silent
        names = [each.host for each in chosen] or ([] if results else self._fleet.names)
        self._combined = len(chosen) > 1 and bool(chosen[0].platforms)
        if self._combined and options.detach:
            raise UsageFault("--detach leaves nobody here to put the platforms together", hint="choose a host with -H")
        single = options.iidfile or any(each.local for each in options.outputs)
        if len(chosen) > 1 and (options.local_targets or (single and not self._combined)):
            raise UsageFault("the hosts are of several platforms: the result is no single file", hint="choose with -H")
        for name in names:
            self._builds[name] = Build(self._fleet.host(name), start, context, named)
        for builder in chosen:
            if builder.platforms:
                self._builds[builder.host].restrict(builder.platforms)
        try:
            async for result in self._fleet.each(self._one, names):
                results.append(result)
            self._view.close()
            if self._combined and not options.detach:
                results = await self._combine(chosen, results)
            if options.distribute:
                results += await self._distributed(chosen, results)
        except asyncio.CancelledError:
            self._view.close()
            await self._cancel()
            raise
        self._view.close()
        code = self._report(results, source)
        line = failed_line(results[0].error) if options.debug else 0
        if line:
            await open_shell(self._fleet.host(results[0].host), start, line, context, named)
        return code

    async def _chosen(
        self, start: image_pb2.ImageServiceBuildRequest.Start, contexts: Mapping[str, object]
    ) -> tuple[list[Builder], list[HostResult[Made | None]]]:
        """Who builds, and the errors of those who do not answer."""
        from shoalctl.commands.choosing import assigned, builders, candidates

        found, silent = await candidates(self._fleet, start, contexts)
        platforms = self._options.platforms
        chosen = assigned(found, platforms) if len(platforms) > 1 else builders(found)
        return chosen, [HostResult(each.host, None, each.error) for each in silent]

    async def _combine(
        self, chosen: Sequence[Builder], built: Sequence[HostResult[Made | None]]
    ) -> list[HostResult[Made | None]]:
        """One index of what all builders made, on the first; if one of them failed, there is none."""
        from shoalctl.commands.combining import combine

        made = {result.host: result.value for result in built if result.value is not None}
        if len(made) < len(chosen):
            return [result for result in built if result.error is not None]
        first = chosen[0].host
        if self._options.progress != "quiet":
            console.err(f"putting the platforms together on {first} ...")
        try:
            done = await combine(self._fleet, chosen, made, self._options.platforms, self._options.names)
            await self._deliver(self._fleet.host(first), done)
        except ShoalError as error:
            return [*(result for result in built if result.error is not None), HostResult(first, None, error)]
        return [*(result for result in built if result.error is not None), HostResult(first, done, None)]

    async def _distributed(
        self, chosen: Sequence[Builder], built: Sequence[HostResult[Made | None]]
    ) -> list[HostResult[Made | None]]:
        """What each builder made, brought to the other hosts; what is named has these names there."""
        from shoalctl.commands.choosing import distribute
        from shoalctl.commands.combining import Made

        images = {result.host: result.value for result in built if result.value is not None}
        results: list[HostResult[Made | None]] = []
        for builder in chosen:
            if builder.host not in images or not builder.others:
                continue
            made = images[builder.host]
            if self._options.progress != "quiet":
                console.err(f"bringing it from {builder.host} to {', '.join(builder.others)} ...")
            names = self._options.names
            try:
                brought = await distribute(
                    self._fleet, builder.host, builder.others, names, made.image, made.index_digest
                )
            except ShoalError as error:
                results += [HostResult(name, None, error) for name in builder.others]
                continue
            for each in brought:
                value = None if each.value is None else Made(each.value, made.index_digest)
                results.append(HostResult(each.host, value, each.error))
        return results

    async def _one(self, host: HostClient) -> Made | None:
        from shoalctl.commands.combining import Made

        build = self._builds[host.name]
        from shoalctl.fleet.agents import AgentForward

        build.sending = functools.partial(self._sending, host.name)
        lending = [
            asyncio.create_task(AgentForward(host, agent.handle, agent.path).run())
            for agent in self._options.ssh.values()
        ]
        try:
            async with self._caches.lending(host), aclosing(build.events()) as events:
                async for event in events:
                    if self._options.detach:
                        return None  # the host has all that it needs
                    show_event(self._view, host.name, event)
        finally:
            for task in lending:
                task.cancel()
            await asyncio.gather(*lending, return_exceptions=True)
        made = Made(build.result(), build.index_digest)
        if not self._combined:
            await self._deliver(host, made)
        await self._caches.write(host, build)
        return made

    async def _deliver(self, host: HostClient, made: Made) -> None:
        for output in self._options.outputs:
            await deliver(host, made.image, made.index_digest, output, self._options)
        await asyncio.to_thread(self._iidfile.write, made.name)

    def _sending(self, host: str, done: int, total: int) -> None:
        """Some of the context is on its way; a little is not worth a line."""
        if total >= _WORTH_A_LINE:
            self._view.progress(host, "context", DONE[0] if done == total else SENDING, done, total)

    def _report(self, results: list[HostResult[Made | None]], source: Source) -> int:
        marks = MarkedLines(self._fleet.names)
        excerpts: list[list[str]] = []
        order = {name: at for at, name in enumerate(self._fleet.names)}
        for result in sorted(results, key=lambda result: order[result.host]):
            if result.error is not None:
                lines = _excerpt(result.error, source)
                if lines not in excerpts:  # hosts mostly stumble over the same line
                    excerpts.append(lines)
                    for line in lines:
                        console.err(line)
                if failed_line(result.error) and not self._options.debug:
                    result.error.metadata.setdefault("hint", HINT)
                show_error(result.error, result.host)
                continue
            made = result.get()
            if made is None or self._options.detach:
                marks.line(result.host, self._builds[result.host].request_id)
                continue
            if not any(output.dest == "-" for output in self._options.outputs):
                marks.line(result.host, made.name)
        return exits.combined(not result.ok for result in results)

    async def _credentials(self, source: Source) -> types_pb2.RegistryCredentials | None:
        from shoalctl.commands.credentials import credentials

        domain = external_domain(source.text)
        if domain is None:
            if self._options.creds is not None:
                raise UsageFault(
                    "it can't be told which registry --creds is for: the Dockerfile doesn't name images of exactly one",
                    hint="pull what needs a login first: shoal pull --creds USER:PASSWORD IMAGE",
                )
            return None
        found = await credentials(self._options.creds, f"{domain}/base")
        if found is not None:
            found.registry = domain
        return found

    async def _cache_credentials(self) -> list[types_pb2.RegistryCredentials]:
        """For the registries of caches, as this machine has them for each."""
        from shoal.reference import Reference
        from shoalctl.commands.credentials import credentials

        references = [*self._options.cache_from, *(each.reference for each in self._options.cache_to if each.reference)]
        domains = {Reference.parse(name).domain: name for name in references}
        found = []
        for domain, name in domains.items():
            each = await credentials(None, name)
            if each is not None:
                each.registry = domain
                found.append(each)
        return found

    async def _cancel(self) -> None:
        console.err(f"cancelling on {', '.join(self._fleet.names)} ...")
        try:
            async with asyncio.timeout(_CLEANUP):
                building = list(self._builds)
                async for _ in self._fleet.each(lambda host: host.cancel(self._builds[host.name].request_id), building):
                    pass
        except TimeoutError:
            pass


def build_view(progress: str, hosts: list[str]) -> BuildView:
    if progress == "quiet":
        return QuietBuild()
    if progress == "json":
        return JsonBuild()
    if progress == "tty" or (progress == "auto" and console.is_terminal(error=True)):
        return BuildBoard(hosts)
    return PlainBuild(hosts)


def show_event(view: BuildView, host: str, event: Any) -> None:
    time = event.time.seconds + event.time.nanos / 1e9
    match event.WhichOneof("event"):
        case "step_started":
            step = event.step_started
            text = " ".join(step.text.replace("\\\n", " ").split())
            title = f"[{step.stage} {step.number}/{step.total}] {console.printable(text)}"
            view.started(host, step.step_id, title, time)
        case "step_log":
            log = event.step_log
            view.output(host, log.step_id, log.data, time, error=log.stream == log.STREAM_STDERR)
        case "step_finished":
            done = event.step_finished
            view.finished(host, done.step_id, time, cached=done.cached, error=done.error)
        case "warning":
            warning = event.warning
            rule = f"{warning.rule}: " if warning.rule else ""
            where = f" (line {warning.start_line})" if warning.start_line else ""
            view.warning(host, f"{rule}{warning.message}{where}")
        case "progress":
            record = event.progress
            view.progress(host, record.id, record.phase, record.done_bytes, record.total_bytes)


def _excerpt(error: ShoalError, source: Source) -> list[str]:
    """The Dockerfile's lines that the error is about."""
    start, end = error.metadata.get("start_line", ""), error.metadata.get("end_line", "")
    if not start.isdecimal():
        return []
    name = error.metadata.get("file") or source.name
    last = int(end) if end.isdecimal() else int(start)
    return excerpt(name, source.text.decode("utf-8", "replace"), int(start), last)
