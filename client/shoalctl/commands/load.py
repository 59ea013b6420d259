"""`shoal load`: images of an archive, to the hosts."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Annotated

import typer

from shoalctl.commands.command import HostCommand, execute, verb_app
from shoalctl.flags.fault import UsageFault
from shoalctl.invocation import Invocation

if TYPE_CHECKING:
    from shoalctl.fleet.archives import LoadedImage
    from shoalctl.fleet.host import HostClient

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
        with _opened(source, several=len(fleet.names) > 1) as file:

            async def one(host: HostClient) -> list[LoadedImage]:
                return await load_images(
                    host,
                    _chunks(file, file.name if len(fleet.names) > 1 else ""),
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


def _opened(source: str, *, several: bool) -> IO[bytes]:
    """The archive. For several hosts standard input is kept in a file, which each of them reads. Raises UsageFault."""
    if source:
        try:
            return open(source, "rb")
        except OSError as error:
            raise UsageFault(f"can't read {source}: {error.strerror}") from error
    if not several:
        return sys.stdin.buffer
    spool: IO[bytes] = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the caller closes it
    shutil.copyfileobj(sys.stdin.buffer, spool, _CHUNK)
    spool.flush()
    return spool


def _chunks(file: IO[bytes], own: str) -> Iterator[bytes]:
    """The archive in pieces (blocking); `own`: by the file of this name, opened once more."""
    if own:
        with open(own, "rb") as again:
            yield from iter(lambda: again.read(_CHUNK), b"")
        return
    yield from iter(lambda: file.read(_CHUNK), b"")
