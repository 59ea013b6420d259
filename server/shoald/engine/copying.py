"""Use cases of files in containers: copy in and out, look at a path, export."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing

import structlog

from shoal.errors import InvalidArgument, ShoalError
from shoald.containers.copying import ContainerFiles, ImageFiles
from shoald.containers.lifecycle import Publish
from shoald.model.container import Container
from shoald.model.image import Image
from shoald.model.path import PathStat

log = structlog.get_logger(__name__)


class CopyCases:
    """Read-only, or retried as a whole: an archive that was unpacked twice gives the same files."""

    def __init__(
        self,
        find: Callable[[str], Container],
        files: ContainerFiles,
        find_image: Callable[[str], Image],
        image_files: ImageFiles,
        publish: Publish,
    ) -> None:
        """`find` raises NotFound (CONTAINER_NOT_FOUND), `find_image` NotFound (IMAGE_NOT_FOUND)."""
        self._find_image = find_image
        self._image_files = image_files
        self._find = find
        self._files = files
        self._publish = publish

    async def stat_path(self, name: str, path: str) -> PathStat:
        """See engine.ports.Engine.stat_path."""
        return await self._files.stat(self._find(name), _checked(path))

    async def copy_out(self, name: str, path: str, follow: bool) -> AsyncGenerator[PathStat | bytes, None]:
        """See engine.ports.Engine.copy_out."""
        container = self._find(name)
        self._tell(container, "archive-path", path)
        async with aclosing(self._files.read(container, _checked(path), follow=follow)) as items:
            async for item in items:
                yield item

    async def copy_in(
        self, name: str, path: str, chunks: AsyncIterable[bytes], keep_owner: bool, guard_types: bool
    ) -> None:
        """See engine.ports.Engine.copy_in."""
        container = self._find(name)
        path = _checked(path)
        await self._files.write(container, path, chunks, keep_owner=keep_owner, guard_types=guard_types)
        self._tell(container, "extract-to-dir", path)

    async def export_container(self, name: str) -> AsyncGenerator[bytes, None]:
        """See engine.ports.Engine.export_container."""
        container = self._find(name)
        self._tell(container, "export")
        async with aclosing(self._files.export(container)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def export_image(self, name: str) -> AsyncGenerator[bytes, None]:
        """See engine.ports.Engine.export_image."""
        async with aclosing(self._image_files.export(self._find_image(name))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _tell(self, container: Container, action: str, path: str = "") -> None:
        told = {**container.spec.labels, "name": container.name, "image": container.spec.image}
        try:
            self._publish("container", action, container.id, {**told, "path": path} if path else told)
        except ShoalError as error:
            log.error("event_not_stored", container=container.id, action=action, error=str(error))


def _checked(path: str) -> str:
    if not path or "\0" in path:
        raise InvalidArgument("the path in the container is empty or has a NUL byte", reason="INVALID_PATH")
    return path
