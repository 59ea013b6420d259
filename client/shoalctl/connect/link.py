"""A link: one host's channel, connected on first use, and the calls over it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

# gRPC's core reads these when it is loaded: no fork handlers, and no lines of its own on the user's terminal.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import grpc.aio

from shoal.errors import FailedPrecondition, ShoalError, Unavailable
from shoal.pki.keypair import KeyPair, read_pem
from shoalctl.connect.credentials import Credentials
from shoalctl.connect.failure import LinkLost, translated
from shoalctl.inventory import Host

T = TypeVar("T")

CALL_TIMEOUT = 30.0
"""Seconds for a call that answers at once."""
RECONNECT_TIME = 60.0
"""Seconds to try to get a lost link back."""
_BACKOFF, _MAX_BACKOFF = 0.1, 3.0  # s

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 3_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    # A fleet's hosts are spoken to directly; a proxy of the environment would only see TLS that it can't join.
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


class Link:
    """The connection to one host. `timeout` in seconds for connecting. Every error is a ShoalError.

    A call on a link that has never worked fails at once with a diagnosis; one that is lost later is taken up again for
    up to RECONNECT_TIME, where a call can be repeated.
    """

    def __init__(self, host: Host, timeout: float) -> None:
        self.host = host
        self.timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._credentials: Credentials | None = None
        self._connected = False
        self._connecting = asyncio.Lock()
        self._lost_since: float | None = None
        self._losses = 0

    def warm(self) -> None:
        """Begin to connect, without waiting: what is imported and prepared meanwhile costs no time then.

        Whatever goes wrong is raised by the first call.
        """
        try:
            self._opened()
        except ShoalError:
            return

    async def channel(self) -> grpc.aio.Channel:
        """The channel, connected. Raises Unavailable, Unauthenticated or FailedPrecondition that say what is wrong."""
        async with self._connecting:
            channel = self._opened()
            if not self._connected:
                await self._connect(channel, patient=False, limit=self.timeout)
                self._connected = True
            return channel

    async def reconnect(self) -> None:
        """Wait until a lost link works again, a little longer each time that it is lost without an answer in between.

        Raises the diagnosis when it does not within RECONNECT_TIME, or Unavailable (reason HOST_UNREACHABLE) when it
        connects but no call gets through for as long.
        """
        channel = await self.channel()
        now = time.monotonic()
        self._lost_since = self._lost_since or now
        if now - self._lost_since > RECONNECT_TIME:
            raise Unavailable(
                f"{self.host.address} takes connections but ends every call",
                reason="HOST_UNREACHABLE",
                hint="see the daemon's log there",
            )
        await asyncio.sleep(min(_BACKOFF * 2**self._losses, _MAX_BACKOFF) if self._losses else 0)
        self._losses += 1
        async with self._connecting:
            await self._connect(channel, patient=True, limit=RECONNECT_TIME)

    def answered(self) -> None:
        """A call got an answer: the link is as good as new. Whoever makes calls of its own on the channel says so."""
        self._lost_since = None
        self._losses = 0

    async def close(self) -> None:
        """Close the channel; calls in flight end with Cancelled."""
        if self._channel is not None:
            await self._channel.close()
            self._channel = None
            self._connected = False

    async def unary(
        self,
        method: Callable[[grpc.aio.Channel], Callable[..., Any]],
        request: Any,
        *,
        timeout: float | None = CALL_TIMEOUT,
        repeat: bool = True,
    ) -> Any:
        """Make one call. `method` picks it from a stub of the channel; `repeat`: it is safe to make it twice."""
        until = time.monotonic() + RECONNECT_TIME
        while True:
            channel = await self.channel()
            try:
                answer = await method(channel)(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                failure = translated(error, timeout)
                if not (repeat and isinstance(failure, LinkLost) and time.monotonic() < until):
                    raise failure from error
            else:
                self.answered()
                return answer
            await self.reconnect()

    async def stream(
        self, method: Callable[[grpc.aio.Channel], Callable[..., Any]], request: Any, *, timeout: float | None = None
    ) -> AsyncIterator[Any]:
        """The messages of one server stream; LinkLost when the connection fails."""
        channel = await self.channel()
        call = method(channel)(request, timeout=timeout)
        try:
            async for message in call:
                self.answered()
                yield message
        except grpc.aio.AioRpcError as error:
            raise translated(error, timeout) from error
        finally:
            call.cancel()

    def _opened(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._credentials = _credentials(self.host)
            self._channel = _open(self.host, self._credentials, self.timeout)
            self._channel.get_state(try_to_connect=True)
        return self._channel

    async def _connect(self, channel: grpc.aio.Channel, *, patient: bool, limit: float) -> None:
        ready, failing = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE
        refused = False
        try:
            async with asyncio.timeout(limit):
                while (state := channel.get_state(try_to_connect=True)) is not ready:
                    if state is failing and not patient:
                        refused = True
                        break
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            refused = True
        if refused:
            assert self._credentials is not None
            from shoalctl.connect.diagnosis import diagnose

            raise await diagnose(self.host, self._credentials, self.timeout)


def _credentials(host: Host) -> Credentials:
    """Read the host's certificate files. Raises NotFound or FailedPrecondition that names the file or setting."""
    if host.is_socket:
        return Credentials()
    if host.ca is None or host.cert is None or host.key is None:
        lacking = [setting for setting in ("ca", "cert", "key") if getattr(host, setting) is None]
        raise FailedPrecondition(
            f"the configuration of host {host.name!r} lacks {' and '.join(lacking)}",
            reason="NO_CERTIFICATE",
            hint=f"shoal host add {host.name} {host.address} --ca FILE --cert FILE --key FILE --replace",
        )
    pair = KeyPair.load(host.cert, host.key)
    return Credentials(ca=read_pem(host.ca), cert=pair.cert_pem, key=pair.key_pem)


def _open(host: Host, credentials: Credentials, timeout: float) -> grpc.aio.Channel:
    options: list[tuple[str, Any]] = [*_OPTIONS, ("grpc.min_reconnect_backoff_ms", int(timeout * 1000))]
    if host.is_socket:
        return grpc.aio.insecure_channel(host.target, options=[*options, ("grpc.default_authority", "localhost")])
    if host.server_name:
        options.append(("grpc.ssl_target_name_override", host.server_name))
    tls = grpc.ssl_channel_credentials(credentials.ca, credentials.key, credentials.cert)
    return grpc.aio.secure_channel(host.target, tls, options=options)
