"""`shoal load`: images of an archive, to the hosts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoalctl.fleet.archives import LoadedImage
    from shoalctl.fleet.host import HostClient
    from shoalctl.fleet.spool import Spool

app = verb_app()
_CHUNK = 512 << 10


@app.command(cls=HostCommand)
def load(
    ctx: typer.Context,
    source: Annotated[str, typer.Option("-i", "--input", metavar="FILE", help="Instead of standard input.")] = "",
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show no progress.")] = False,
) -> None:
    """Make the images of a tar archive (an OCI image layout, or of `docker save`; also compressed) on the hosts."""
    if not source and sys.stdin.isatty():
        raise UsageFault("an archive does not come from a terminal", hint="name a file: -i FILE")
    execute(_load(ctx.obj, source, quiet=quiet))


async def _load(invocation: Invocation, source: str, *, quiet: bool) -> int:
    async with invocation.fleet() as fleet:
        from shoalctl.commands.outcome import collected, report
        from shoalctl.fleet.archives import load_images
        from shoalctl.render.marks import MarkedLines
        from shoalctl.render.progress import ProgressBoard

        board = ProgressBoard(fleet.names, quiet)
        with _opened(source) as file:
            chunks: Callable[[], Iterator[bytes]] = partial(_pieces, file)
            if len(fleet.names) > 1:
                # Each host reads it for itself: a file does for that, a pipe is kept in one.
                spool = await asyncio.to_thread(_spooled, file)
                chunks = spool.chunks

            async def one(host: HostClient) -> list[LoadedImage]:
                return await load_images(
                    host,
                    chunks(),
                    lambda record: board.update(
                        host.name, record.id, record.phase, record.done_bytes, record.total_bytes
                    ),
                )

            results = await collected(fleet.each(one), fleet.names)
        board.close()
        marks = MarkedLines(fleet.names)
        for result in results:
            for loaded in result.value or ():
                for name in loaded.names:
                    marks.line(result.host, f"Loaded image: {name}")
                if not loaded.names:
                    marks.line(result.host, f"Loaded image ID: {loaded.image.id}")
        return report(results)


@contextlib.contextmanager
def _opened(source: str) -> Iterator[int]:
    """The archive's descriptor. Standard input stays open: closing what a thread reads would wait for it."""
    if not source:
        yield sys.stdin.fileno()
        return
    try:
        fd = os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise UsageFault(f"can't read {source}: {error.strerror}") from error
    try:
        yield fd
    finally:
        os.close(fd)


def _pieces(fd: int) -> Iterator[bytes]:
    """The archive in pieces, as they come (blocking). Raises UsageFault."""
    try:
        while chunk := os.read(fd, _CHUNK):
            yield chunk
    except OSError as error:
        raise UsageFault(f"can't read the archive: {error.strerror}") from error


def _spooled(fd: int) -> Spool:
    """Blocking. Raises UsageFault."""
    from shoalctl.fleet.spool import Spool

    try:
        return Spool.of(_pieces(fd))
    except OSError as error:
        raise UsageFault(f"can't keep the archive in {tempfile.gettempdir()}: {error.strerror}") from error
