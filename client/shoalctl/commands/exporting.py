"""A container's root file system as a tar on this machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from shoalctl.flags.fault import UsageFault
from shoalctl.fleet.copying import export_container
from shoalctl.render import console

if TYPE_CHECKING:
    from shoalctl.fleet.host import HostClient


async def export_to(host: HostClient, container: str, output: str) -> None:
    """To a file, which is whole or not there, or to standard output (""). Raises UsageFault."""

    async def write(take: Callable[[bytes], object]) -> None:
        async with aclosing(export_container(host, container)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(take, chunk)

    if not output:
        await write(console.raw)
        return
    temporary = Path(f"{output}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            await write(file.write)
        temporary.replace(output)
    except OSError as error:
        raise UsageFault(f"can't write {output}: {error.strerror}") from error
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
