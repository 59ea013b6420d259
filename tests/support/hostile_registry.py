"""A registry that misbehaves: an HTTP server on loopback that answers as a test says, and keeps what it was asked."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from shoald.oci.manifest import Descriptor

Handler = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class Seen:
    """One request that came in."""

    method: str
    path: str
    query: str
    authorization: str
    headers: dict[str, str]


@dataclass
class HostileRegistry:
    """`address` is 127.0.0.1:port and `other_name` is localhost:port: the same server, other origins."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    scheme: str = "http"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def other_name(self) -> str:
        return f"localhost:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.address}"

    def asked(self, part: str, method: str | None = None) -> list[Seen]:
        """The requests whose path contains `part`."""
        return [s for s in self.seen if part in s.path and method in (None, s.method)]

    @property
    def authorizations(self) -> list[str]:
        """Every Authorization header that came in."""
        return [s.authorization for s in self.seen if s.authorization]


@asynccontextmanager
async def hostile_registry(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[HostileRegistry]:
    """Serve while the block runs. `handler` gets each request but the ping of `/v2/`; None from it means 404."""
    server = HostileRegistry(scheme="https" if tls else "http")

    async def handle(request: web.Request) -> web.StreamResponse:
        server.seen.append(
            Seen(
                request.method,
                request.path,
                request.raw_path.partition("?")[2],
                request.headers.get("Authorization", ""),
                dict(request.headers),
            )
        )
        if request.path == "/v2/":
            return web.Response()
        return await handler(request) or web.Response(status=404)

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        server.port = runner.addresses[0][1]
        yield server
    finally:
        await runner.cleanup()


def serve_manifest(body: bytes, media_type: str, **headers: str) -> web.Response:
    """A manifest as a registry sends it; `docker_content_digest="..."` adds that header."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return web.Response(body=body, headers={"Content-Type": media_type, **named})


async def serve_part(
    request: web.Request, data: bytes, count: int, *, status: int = 200, start: int = 0
) -> web.StreamResponse:
    """Promise `data[start:]`, send `count` bytes of it and cut the connection."""
    headers = {"Content-Length": str(len(data) - start)}
    if status == 206:
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    response = web.StreamResponse(status=status, headers=headers)
    await response.prepare(request)
    await response.write(data[start : start + count])
    if start + count < len(data):
        assert request.transport is not None
        request.transport.abort() if count == 0 else request.transport.close()
    return response


def range_start(request: web.Request) -> int:
    """Where the Range of a request begins; 0 without one."""
    return int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


def challenge(scheme: str = "Bearer", **params: str) -> web.Response:
    """A 401 with this challenge."""
    listed = ",".join(f'{name}="{value}"' for name, value in params.items())
    return web.Response(status=401, headers={"WWW-Authenticate": f"{scheme} {listed}"})


def descriptors(blobs: Sequence[bytes], media_type: str) -> list[Descriptor]:
    """A descriptor for each."""
    return [Descriptor.of(blob, media_type) for blob in blobs]
