"""CDI devices with hooks on crun and on runc: real programs around a container's start and end."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.engine.ports import ExecOrder
from shoald.runtime.execspec import ExecRequest
from tests.support.docker_registry import docker_registry
from tests.support.engine_host import EngineHost, RunningEngine, engine_host
from tests.support.images import push_image_sync

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

# As NVIDIA's: the state on stdin names the bundle, whose config.json names the root file system.
FIND_ROOT = """
state=$(cat)
bundle=$(echo "$state" | sed -n 's/.*"bundle": *"\\([^"]*\\)".*/\\1/p')
root=$(sed -n 's/.*"root":{"path":"\\([^"]*\\)".*/\\1/p' "$bundle/config.json")
"""


class Specs:
    """A directory of specifications, with programs that a container's root can reach too."""

    def __init__(self, directory: Path) -> None:
        self.cdi, self.bin, self.out = (directory / name for name in ("cdi", "bin", "out"))
        for each in (self.cdi, self.bin, self.out):
            each.mkdir()
            each.chmod(0o755)

    def program(self, name: str, script: str) -> str:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    def device(self, name: str, *hooks: tuple[str, str], args: Sequence[str] = ()) -> str:
        """A YAML file of one device, with (kind, script) as hooks; what --device names it."""
        lines = ["cdiVersion: 0.6.0", f"kind: example.com/{name}", "devices:", "- name: all", "  containerEdits:"]
        lines.append("    hooks:")
        for number, (kind, script) in enumerate(hooks):
            path = self.program(f"{name}-{number}", script)
            lines += [f"    - hookName: {kind}", f"      path: {path}"]
            lines += [f"      args: {json.dumps([path, *args])}", "      env: [PATH=/bin:/usr/bin]"]
        (self.cdi / f"{name}.yaml").write_text("\n".join(lines) + "\n")
        return f"example.com/{name}=all"

    def said(self, name: str) -> list[str]:
        path = self.out / name
        return path.read_text().split() if path.exists() else []


@pytest.fixture(scope="module", params=["crun", "runc"])
def host(request: pytest.FixtureRequest) -> Iterator[EngineHost]:
    with docker_registry() as registry:
        pushed = push_image_sync(registry.address, "busybox:latest")
        with engine_host(pushed.reference) as made:
            made.settings["runtime"]["name"] = request.param
            yield made


@pytest.fixture
def specs(host: EngineHost) -> Iterator[Specs]:
    # Not in pytest's own directory, into which nobody but root may look.
    directory = Path(tempfile.mkdtemp(prefix="shoal-cdi-", dir="/var/tmp"))
    directory.chmod(0o755)
    made = Specs(directory)
    host.settings["runtime"]["cdi_dirs"] = [str(made.cdi)]
    yield made
    shutil.rmtree(directory)


@pytest.fixture
async def engine(host: EngineHost, specs: Specs) -> AsyncIterator[RunningEngine]:
    async with host.engine() as running:
        yield running
        await running.remove_all()
        await host.settled()


async def test_a_hook_links_a_file_in_the_containers_root(engine: RunningEngine, specs: Specs) -> None:
    link = FIND_ROOT + 'ln -s libcuda.so.1 "$root/usr/$1" && id -u > "$root/usr/who"'
    device = specs.device("linker", ("createContainer", link), args=("libcuda.so",))
    for userns in ("", "host"):
        out, end = await engine.output(
            "sh", "-c", "readlink /usr/libcuda.so; cat /usr/who; stat -c %u /usr/who",
            cdi_devices=(device,), userns=userns,
        )  # fmt: skip
        assert out.split() == ["libcuda.so.1", "0", "0"]
        assert end.exit_code == 0


async def test_hooks_run_at_each_start_and_end_and_in_their_order(engine: RunningEngine, specs: Specs) -> None:
    kinds = ["prestart", "createRuntime", "poststart", "poststop"]
    device = specs.device("all", *((kind, f"cat > /dev/null; echo {kind} >> {specs.out}/log") for kind in kinds))
    made = await engine.run("sleep", "1000", cdi_devices=(device,))
    assert specs.said("log") == kinds[:3]
    await engine.engine.restart(made.id, 0, "")
    assert specs.said("log") == [*kinds, *kinds[:3]]
    await engine.engine.exec("e1", ExecOrder(made.id, ExecRequest(args=("true",))))
    await engine.engine.stop(made.id, 0, "")
    await engine.host.settled()
    assert specs.said("log") == kinds * 2


async def test_hooks_are_told_of_an_end_that_the_daemon_missed(host: EngineHost, specs: Specs) -> None:
    device = specs.device("after", ("poststop", f"cat > {specs.out}/state"))
    async with host.engine() as before:
        made = await before.run("sleep", "1000", cdi_devices=(device,))
        pid = (await before.state(made.id)).pid
    assert pid
    os.kill(pid, 9)
    async with host.engine() as after:
        await host.settled()
        state = json.loads((specs.out / "state").read_text())
        assert (state["id"], state["status"]) == (made.id, "stopped")
        await after.remove_all()
    await host.settled()


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
async def test_a_hook_that_fails(engine: RunningEngine, specs: Specs, kind: str) -> None:
    device = specs.device("bad", (kind, "cat > /dev/null; echo so it goes >&2; exit 3"))
    with pytest.raises(FailedPrecondition) as caught:
        await engine.run("sleep", "1000", cdi_devices=(device,))
    assert caught.value.reason == "HOOK_FAILED"
    assert "so it goes" in str(caught.value)
    assert "3" in str(caught.value)
    assert "{" not in str(caught.value)
    await engine.remove_all()
    await engine.host.settled()
    assert os.listdir(engine.host.state.run_dir / "oci") == []


async def test_a_hook_that_does_not_end_or_is_not_there(engine: RunningEngine, specs: Specs) -> None:
    device = specs.device("slow", ("createRuntime", "exec sleep 1000"))
    path = specs.cdi / "slow.yaml"
    path.write_text(path.read_text() + "      timeout: 1\n")
    with pytest.raises(FailedPrecondition) as slow:
        await engine.run("true", cdi_devices=(device,))
    assert slow.value.reason == "HOOK_FAILED"
    assert "time" in str(slow.value)
    (specs.bin / "slow-0").unlink()
    with pytest.raises(FailedPrecondition) as missing:
        await engine.run("true", cdi_devices=(device,))
    assert missing.value.reason == "CDI_SOURCE_MISSING"
    assert "slow-0" in str(missing.value)


async def test_what_others_could_have_written_is_not_run(engine: RunningEngine, specs: Specs) -> None:
    device = specs.device("hostile", ("createRuntime", f"touch {specs.out}/ran"))
    path = specs.cdi / "hostile.yaml"
    for change in (lambda: os.chown(path, 1234, 1234), lambda: (os.chown(path, 0, 0), specs.cdi.chmod(0o777))):
        change()
        with pytest.raises(InvalidArgument) as caught:
            await engine.run("true", cdi_devices=(device,))
        assert caught.value.reason == "UNKNOWN_CDI_DEVICE"
        assert "not used: " in str(caught.value)
    assert not engine.host.state.containers()
    assert not (specs.out / "ran").exists()
