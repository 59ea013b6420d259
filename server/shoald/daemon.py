"""The daemon's life: locks, engine, servers, signals, and a graceful end."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager

import structlog

from shoal.errors import ShoalError
from shoald import compose, lock, log
from shoald.api.listeners import check_address
from shoald.api.server import ApiServer, check_credentials
from shoald.config import Config
from shoald.engine.ports import Engine
from shoald.exposition import MetricsListener
from shoald.host import memory, notify
from shoald.host.process import use_pidfd_watcher
from shoald.metrics import CONTENT_TYPE, Metrics
from shoald.model.metrics import EngineMetrics
from shoald.version import version

EngineFactory = Callable[[Config, EngineMetrics], AbstractAsyncContextManager[Engine]]

logger = structlog.get_logger("shoald")


async def serve(
    config: Config,
    reload: Callable[[], Config] | None = None,
    engine_factory: EngineFactory = compose.build_engine,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises errors of the start: a port in use, bad certificates, another daemon.

    Certificates and deny list are read again whenever they change. SIGHUP checks them, so that the log tells of faults,
    and takes the log level from `reload()`.
    """
    use_pidfd_watcher()
    metrics = Metrics(version())
    with lock.hold(config.root, config.run_dir), _signals() as signals:
        check_credentials(config)
        for address in filter(None, (*config.listen, config.metrics_listen)):
            check_address(address)
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(engine_factory(config, metrics))
            if config.metrics_listen:
                exposition = MetricsListener(lambda: metrics.scrape(engine), CONTENT_TYPE)
                stack.push_async_callback(exposition.stop)
                await exposition.start(config.metrics_listen)
            server = ApiServer(config, engine, metrics)
            stack.push_async_callback(server.stop)
            await server.start()
            # What the start made stays: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            memory.settle()
            _announce(config)
            await _until_stopped(signals, config, reload)
            notify.notify(notify.STOPPING)
            logger.info("shutting down", active_calls=server.active_calls)
    logger.info("stopped; containers go on")


def _announce(config: Config) -> None:
    where = [*config.listen, *([f"unix:{config.socket_path}"] if config.socket_path else [])]
    logger.info("ready", version=version(), listen=where, metrics=config.metrics_listen or "off", root=str(config.root))
    notify.notify(notify.READY, notify.status(f"serving on {', '.join(where)}"))


@contextmanager
def _signals() -> Iterator[asyncio.Queue[signal.Signals]]:
    """SIGTERM, SIGINT and SIGHUP as items of a queue, from before the start to after the end."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[signal.Signals] = asyncio.Queue()
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for number in wanted:
        loop.add_signal_handler(number, queue.put_nowait, number)
    try:
        yield queue
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)


async def _until_stopped(
    signals: asyncio.Queue[signal.Signals], config: Config, reload: Callable[[], Config] | None
) -> None:
    while await signals.get() is signal.SIGHUP:
        if reload is None:
            continue
        try:
            fresh = reload()
            check_credentials(fresh)
        except ShoalError as error:
            logger.error("reload failed; nothing changed", error=error.message)
            continue
        log.configure(fresh.log_level, fresh.log_format)
        logger.info("reloaded", log_level=fresh.log_level)
        if _fixed(fresh) != _fixed(config):
            logger.warning("some changes in the configuration need a restart")


def _fixed(config: Config) -> Config:
    import msgspec

    return msgspec.structs.replace(config, log_level="info", log_format="auto")
