"""`from shoalctl import Fleet`: from a script, without a word on the terminal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, Internal, NotFound, ShoalError, Unavailable
from shoal.v1 import container_pb2
from shoalctl import Fleet, HostResult
from shoalctl.defect import OutputFault
from shoalctl.fleet import fanout
from tests.support.fake_daemon import Certificates, FakeDaemon, container, record


@pytest.fixture
def daemons(tmp_path: Path) -> Iterator[tuple[FakeDaemon, FakeDaemon]]:
    certificates = Certificates.make(tmp_path / "pki")
    with FakeDaemon(certificates) as one, FakeDaemon(certificates) as two:
        text = certificates.config("one", one.port) + certificates.config("two", two.port)
        (tmp_path / "config.toml").write_text(text + '[groups]\nboth = ["one", "two"]\n')
        yield one, two


async def test_a_script_speaks_to_many_hosts(
    daemons: tuple[FakeDaemon, FakeDaemon], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[str, int]] = []
    async with Fleet.load(group="both", config=tmp_path / "config.toml") as fleet:
        assert fleet.names == ["one", "two"]
        async for result in fleet.pull("busybox", progress=lambda host, record: seen.append((host, record.phase))):
            assert result.get().id.startswith("sha256:")
        spec = container_pb2.ContainerSpec(name="web", image="busybox")
        started = {result.host: result.get().container.name async for result in fleet.run(spec, hosts=["two"])}
        assert started == {"two": "web"}
        listed = {result.host: len(result.get()) async for result in fleet.containers()}
        assert listed == {"one": 0, "two": 1}
        logs = fleet.logs(container_pb2.ContainerServiceLogsRequest(name="web"), hosts=["two"])
        daemons[1].records = [record("hello\n")]
        assert [result.get().data async for result in logs] == [b"hello\n"]
        with pytest.raises(NotFound):
            fleet.host("three")
    assert ("one", 5) in seen
    assert ("two", 5) in seen
    assert capfd.readouterr() == ("", "")


async def test_an_error_carries_reason_hint_and_host(daemons: tuple[FakeDaemon, FakeDaemon], tmp_path: Path) -> None:
    daemons[0].trouble["List"] = NotFound("gone", reason="SOME_REASON", hint="look", metadata={"key": "value"})
    async with Fleet.load(group="both", config=tmp_path / "config.toml") as fleet:
        results = {result.host: result async for result in fleet.containers()}
    error = results["one"].error
    assert results["two"].ok
    assert isinstance(error, NotFound)
    assert (error.message, error.reason, error.hint, error.metadata["key"]) == ("gone", "SOME_REASON", "look", "value")
    with pytest.raises(NotFound):
        results["one"].get()


async def test_leaving_early_ends_everything(daemons: tuple[FakeDaemon, FakeDaemon], tmp_path: Path) -> None:
    daemons[0].hangs = True
    before = asyncio.all_tasks()
    async with Fleet.load(group="both", config=tmp_path / "config.toml") as fleet:
        results = fleet.containers()
        assert (await anext(results)).host == "two"
        await results.aclose()
        daemons[0].released.set()
    # gRPC ends its own tasks a few turns of the loop later.
    for _ in range(100):
        if asyncio.all_tasks() <= before:
            break
        await asyncio.sleep(0.02)
    assert asyncio.all_tasks() <= before


class Fake:
    def __init__(self, name: str) -> None:
        self.name = name


async def test_a_fan_out_is_concurrent_and_bounded() -> None:
    running = most = 0

    async def work(host: Fake) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        if host.name == "7":
            raise Unavailable("down")
        return host.name

    hosts = [Fake(str(n)) for n in range(200)]
    results = [result async for result in fanout.each(hosts, work)]
    assert len({result.host for result in results}) == 200
    assert [result.host for result in results if not result.ok] == ["7"]
    assert most == fanout.AT_ONCE


async def test_merged_streams_are_bounded_and_end_with_their_errors() -> None:
    made = 0

    async def work(host: Fake) -> AsyncIterator[int]:
        nonlocal made
        for number in range(1000):
            made += 1
            yield number
        if host.name == "b":
            raise ShoalError("broken")

    stream = fanout.merged([Fake("a"), Fake("b")], work)
    await anext(stream)
    await asyncio.sleep(0.01)
    assert made < 600
    rest: list[HostResult[int]] = [result async for result in stream]
    assert len(rest) == 2000
    assert [str(result.error) for result in rest if not result.ok] == ["broken"]


async def test_a_defect_is_of_one_host_and_not_swallowed() -> None:
    async def stream(host: Fake) -> AsyncIterator[str]:
        yield await once(host)

    async def once(host: Fake) -> str:
        if host.name == "a":
            raise KeyError(host.name)
        await asyncio.sleep(0.05)
        return host.name

    hosts = [Fake("a"), Fake("b")]
    for results in (fanout.merged(hosts, stream), fanout.each(hosts, once)):
        bad, good = [result async for result in results]
        assert (good.host, good.get()) == ("b", "b")
        assert isinstance(bad.error, Internal)
        assert isinstance(bad.error.__cause__, KeyError)
        assert bad.error.message == "internal error: KeyError: 'a'"


async def test_output_that_can_not_be_written_ends_all() -> None:
    async def stream(host: Fake) -> AsyncIterator[str]:
        yield await once(host)

    async def once(host: Fake) -> str:
        if host.name == "a":
            raise OutputFault(28, "No space left on device", "standard output")
        await asyncio.sleep(60)
        return host.name

    hosts = [Fake("a"), Fake("b")]
    for results in (fanout.merged(hosts, stream), fanout.each(hosts, once)):
        with pytest.raises(OutputFault):
            await anext(results)


async def test_a_configuration_that_is_named_is_there(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"none\.toml does not exist"):
        Fleet.load(config=tmp_path / "none.toml")


async def test_a_stopping_daemon_is_waited_for(
    daemons: tuple[FakeDaemon, FakeDaemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemons[0].containers.append(container("web"))
    daemons[0].trouble["Wait"] = Unavailable("the daemon is shutting down", reason="SHUTTING_DOWN")
    async with Fleet.load(["one"], config=tmp_path / "config.toml") as fleet:
        host = fleet.host("one")
        reconnects = 0

        async def reconnect() -> None:
            nonlocal reconnects
            reconnects += 1
            daemons[0].trouble.clear()

        monkeypatch.setattr(host.link, "reconnect", reconnect)
        assert (await host.wait("web")).exit_code == 0
    assert reconnects == 1


async def test_a_host_that_ends_every_call_is_given_up(
    daemons: tuple[FakeDaemon, FakeDaemon], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shoalctl.connect.link.RECONNECT_TIME", 0.5)
    daemons[0].trouble["List"] = Unavailable("the daemon is shutting down", reason="SHUTTING_DOWN")
    async with Fleet.load(["one"], config=tmp_path / "config.toml") as fleet:
        (result,) = [result async for result in fleet.containers()]
    assert isinstance(result.error, Unavailable)
    assert "ends every call" in result.error.message
    assert 2 <= len(daemons[0].requests("List")) < 10


async def test_a_script_builds_and_stops(daemons: tuple[FakeDaemon, FakeDaemon], tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM scratch\n")
    daemons[0].containers.append(container("web"))
    async with Fleet.load(["one"], config=tmp_path / "config.toml") as fleet:
        built = [result.get().id async for result in fleet.build(tmp_path / "context", tags=["a:1"])]
        assert built == ["sha256:" + "1" * 64]
        assert [result.get().name async for result in fleet.stop("web")] == ["web"]
        assert [result.get().exit_code async for result in fleet.wait("web")] == [0]
        assert [result.get() async for result in fleet.remove("web", force=True)] == ["a" * 64]
    assert list(daemons[0].requests("Build")[0].start.tags) == ["a:1"]
