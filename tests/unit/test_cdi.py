"""CDI specifications: JSON and YAML, which description counts, what is refused, and whose files are read."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from shoal.errors import FailedPrecondition, InvalidArgument, ShoalError
from shoald.containers.cdi_files import cdi_library
from shoald.containers.equipment import equipment
from shoald.host.process import run
from shoald.host.trusted import read_trusted
from shoald.model.container import ContainerSpec
from shoald.runtime.cdi import Edits, edits_of, parse_spec
from shoald.runtime.hooks import Hook, hook_list, reader, with_output

# As `nvidia-ctk cdi generate` writes it.
NVIDIA = """\
---
cdiVersion: 0.5.0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
    hostPath: /dev/null
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  hooks:
  - args:
    - nvidia-ctk
    - hook
    - create-symlinks
    - --link
    - libcuda.so.1::/usr/lib/libcuda.so
    hookName: createContainer
    path: /bin/sh
  - args: [nvidia-ctk, hook, update-ldcache, --folder, /usr/lib]
    hookName: createContainer
    path: /bin/sh
    env: [NVIDIA_CTK_DEBUG=false]
    timeout: 10
  mounts:
  - containerPath: /usr/bin/nvidia-smi
    hostPath: /bin/sh
    options: [ro, nosuid, nodev, bind]
devices:
- containerEdits:
    deviceNodes:
    - {path: /dev/nvidia0, hostPath: /dev/null, fileMode: 438, major: 195, minor: 0, permissions: rw}
  name: "0"
- containerEdits:
    additionalGids: [0, 44]
  name: all
kind: nvidia.com/gpu
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    return tmp_path


def document(*devices: dict[str, Any], **fields: Any) -> str:
    return json.dumps({"cdiVersion": "0.6.0", "kind": "example.com/thing", "devices": devices} | fields)


def device(name: str, **edits: Any) -> dict[str, Any]:
    return {"name": name, "containerEdits": edits}


def edits(text: str, name: str = "example.com/thing=x", suffix: str = ".json", *, place: Path) -> Edits:
    (place / f"one{suffix}").write_text(text)
    return edits_of((name,), cdi_library([place]))


def test_what_nvidia_writes(place: Path) -> None:
    (place / "nvidia.yaml").write_text(NVIDIA)
    spec = ContainerSpec(image="x", cdi_devices=("nvidia.com/gpu=0", "nvidia.com/gpu=all"))
    found = equipment(spec, (place,))
    assert [(each.path, each.major, each.minor, each.mode) for each in found.nodes] == [
        ("/dev/nvidiactl", 1, 3, os.stat("/dev/null").st_mode & 0o7777), ("/dev/nvidia0", 195, 0, 0o666),
    ]  # fmt: skip
    assert found.env == ("NVIDIA_VISIBLE_DEVICES=void",)
    assert found.groups == (44,)
    assert found.mounts == (
        ("/usr/bin/nvidia-smi", "/bin/sh", "", ("ro", "nosuid", "nodev", "bind")),
    )  # fmt: skip
    first, second = found.hooks["createContainer"]
    assert first.args[:3] == ("nvidia-ctk", "hook", "create-symlinks")
    assert second == Hook(
        "/bin/sh", ("nvidia-ctk", "hook", "update-ldcache", "--folder", "/usr/lib"),
        ("NVIDIA_CTK_DEBUG=false",), 10,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "reason", "words"),
    [
        ({"hooks": [{"hookName": "preStop", "path": "/bin/x"}]}, "BAD_CDI_SPEC", "preStop"),
        ({"hooks": [{"hookName": "poststop", "path": "bin/x"}]}, "BAD_CDI_SPEC", "'bin/x' is not absolute"),
        ({"hooks": [{"hookName": "poststop", "path": "/x", "timeout": 0}]}, "BAD_CDI_SPEC", "timeout"),
        ({"hooks": [{"hookName": "poststop", "path": "/x", "env": ["A"]}]}, "BAD_CDI_SPEC", "'A' is not NAME=VALUE"),
        ({"hooks": [{"hookName": "poststop", "path": "/x", "uid": 1}]}, "CDI_UNSUPPORTED", "uid"),
        ({"hooks": [{"path": "/x"}]}, "BAD_CDI_SPEC", "hookName"),
        ({"deviceNodes": [{"path": "dev/x"}]}, "BAD_CDI_SPEC", "'dev/x' is not absolute"),
        ({"deviceNodes": [{"path": "/dev/../etc/x"}]}, "BAD_CDI_SPEC", "is not absolute"),
        ({"mounts": [{"hostPath": "x", "containerPath": "/x"}]}, "BAD_CDI_SPEC", "'x' is not absolute"),
        ({"env": ["=x"]}, "BAD_CDI_SPEC", "NAME=VALUE"),
        ({"intelRdt": {"closID": "x"}}, "CDI_UNSUPPORTED", "Intel RDT"),
        ({"netDevices": [{"hostInterfaceName": "eth1", "name": "x"}]}, "CDI_UNSUPPORTED", "network interfaces"),
        ({"somethingNew": 1}, "CDI_UNSUPPORTED", "somethingNew"),
    ],
)  # fmt: skip
def test_what_is_refused_concerns_its_device_alone(place: Path, given: dict[str, Any], reason: str, words: str) -> None:
    text = document(device("x", **given), device("good", env=["A=1"]), cdiVersion="1.1.0")
    with pytest.raises(FailedPrecondition) as caught:
        edits(text, place=place)
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert "example.com/thing=x" in str(caught.value)
    assert "one.json" in str(caught.value)
    assert edits(text, "example.com/thing=good", place=place).env == ("A=1",)


def test_edits_of_a_file_come_once_and_of_each_file(place: Path) -> None:
    (place / "a.json").write_text(document(device("a"), device("b", env=["B=1"]), containerEdits={"env": ["ALL=1"]}))
    (place / "b.yml").write_text(document(device("c"), containerEdits={"env": ["MORE=1"]}))
    names = [f"example.com/thing={name}" for name in ("a", "b", "a", "c")]
    assert edits_of(names, cdi_library([place])).env == ("ALL=1", "B=1", "MORE=1")


def test_later_directories_win_and_one_must_not_contradict_itself(tmp_path: Path) -> None:
    first, second = tmp_path / "etc", tmp_path / "run"
    for directory in (first, second):
        directory.mkdir(0o755)
    (first / "a.json").write_text(document(device("x", env=["FROM=a"]), device("y", env=["Y=a"])))
    (first / "b.yaml").write_text(document(device("x", env=["FROM=b"])))
    known = cdi_library([first, second, tmp_path / "missing", first])
    with pytest.raises(FailedPrecondition) as caught:
        edits_of(("example.com/thing=x",), known)
    assert caught.value.reason == "CDI_CONFLICT"
    assert f"{first}/a.json and {first}/b.yaml" in str(caught.value)
    assert edits_of(("example.com/thing=y",), known).env == ("Y=a",)
    (second / "c.json").write_text(document(device("x", env=["FROM=c"])))
    assert edits_of(("example.com/thing=x",), cdi_library([first, second])).env == ("FROM=c",)


def test_the_class_may_have_dots_and_a_name_may_be_a_number(place: Path) -> None:
    text = "{cdiVersion: v1.0.0, kind: example.com/a-b.C_d, devices: [{name: 0}]}"
    assert edits(text, "example.com/a-b.C_d=0", ".yaml", place=place) == Edits()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.json", "{", "truncated"),
        ("x.json", "[" * 100_000, "x.json"),
        ("x.json", '{"kind": "a/b"}', "cdiVersion"),
        ("x.json", '{"kind": "a/b", "cdiVersion": "one"}', "'one' is not a version"),
        ("x.yaml", "", "x.yaml"),
        ("x.yaml", "a: [", "x.yaml"),
        ("x.yaml", "[" * 100_000, "x.yaml"),
        ("x.yaml", "a: &a [*a]", "leads back"),
        ("x.yaml", "a: 1\n---\nb: 1", "single document"),
        ("x.yaml", "!!python/object/apply:os.system ['touch /tmp/x']", "python/object"),
        ("x.yaml", "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
         + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 10)}]\n" for n in range(9)),
         "too large"),
    ],
)  # fmt: skip
def test_bad_files(name: str, text: str, words: str) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        parse_spec(text.encode(), name)
    assert caught.value.reason == "BAD_CDI_SPEC"
    assert words in str(caught.value)


def test_who_asks_for_what_is_not_there_reads_why(place: Path) -> None:
    (place / "broken.json").write_text("{")
    (place / "notes.txt").write_text("{")
    with pytest.raises(InvalidArgument) as caught:
        edits(document(device("a"), device("b")), "example.com/thing=c", place=place)
    assert caught.value.reason == "UNKNOWN_CDI_DEVICE"
    assert f"not used: CDI specification {place}/broken.json: Input data was truncated" in str(caught.value)
    assert "notes.txt" not in str(caught.value)
    assert caught.value.hint == "it has example.com/thing=a, example.com/thing=b"
    for kind, words in (("nvidia.com/gpu", "/x: nvidia-ctk cdi generate --output=/etc/x/"), ("a.com/b", "/x")):
        with pytest.raises(InvalidArgument) as nothing:
            edits_of((f"{kind}=all",), cdi_library([Path("/etc/x"), Path("/run/x")]))
        assert str(nothing.value.hint).startswith(f"there is no specification in /etc/x or /run{words}")
        assert ("nvidia" in str(nothing.value.hint)) == ("nvidia" in kind)


def test_what_a_specification_names_must_be_there(place: Path) -> None:
    (place / "data").touch()
    given: dict[str, dict[str, Any]] = {
        "node": {"deviceNodes": [{"path": "/dev/nothing"}]},
        "mount": {"mounts": [{"hostPath": "/lib/nothing", "containerPath": "/x"}]},
        "hook": {"hooks": [{"hookName": "poststop", "path": str(place / "data")}]},
        "inside": {"hooks": [{"hookName": "startContainer", "path": "/nothing"}]},
        "tmpfs": {"mounts": [{"hostPath": "/nothing", "containerPath": "/x", "type": "tmpfs"}]},
    }
    (place / "x.json").write_text(document(*(device(name, **edits) for name, edits in given.items())))
    for name, path in (("node", "/dev/nothing"), ("mount", "/lib/nothing"), ("hook", f"the program {place}/data")):
        with pytest.raises(FailedPrecondition) as caught:
            equipment(ContainerSpec(image="x", cdi_devices=(f"example.com/thing={name}",)), (place,))
        assert caught.value.reason == "CDI_SOURCE_MISSING"
        assert f"needs {path}, which" in str(caught.value)
    for name in ("inside", "tmpfs"):
        equipment(ContainerSpec(image="x", cdi_devices=(f"example.com/thing={name}",)), (place,))


# --- whose files ------------------------------------------------------------------------------------------------------


def test_only_files_of_root_are_read(place: Path) -> None:
    file = place / "x.json"
    file.write_text("text")
    assert read_trusted(file, 4) == b"text"
    (place / "fifo").symlink_to(place / "pipe")
    os.mkfifo(place / "pipe", 0o600)
    (place / "round").symlink_to(place / "round")
    for name, limit, words in (("x.json", 3, "larger"), ("none", 9, "No such file"), ("fifo", 9, "not a file"),
                               ("round", 9, "round")):  # fmt: skip
        with pytest.raises(FailedPrecondition) as caught:
            read_trusted(place / name, limit)
        assert caught.value.reason == "UNREADABLE_FILE"
        assert words in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_what_others_could_have_written_is_not_read(place: Path) -> None:
    safe, other = place / "cdi", place / "other"
    for directory in (safe, other):
        directory.mkdir(0o755)
    good = safe / "x.json"
    good.write_text(document(device("x")))
    linked = safe / "linked.json"
    linked.symlink_to(other / "x.json")
    (other / "x.json").write_text(document(device("y")))

    def refused(path: Path, *words: str) -> None:
        with pytest.raises(FailedPrecondition) as caught:
            read_trusted(path, 1000)
        assert caught.value.reason == "UNTRUSTED_FILE"
        assert all(word in str(caught.value) for word in words)
        with pytest.raises(ShoalError) as unknown:
            edits_of((f"example.com/thing={'x' if path == good else 'y'}",), cdi_library([safe]))
        assert words[0] in str(unknown.value)

    assert read_trusted(linked, 1000)
    for mode in (0o666, 0o664):
        good.chmod(mode)
        refused(good, "x.json can be written by others", f"{mode:o}")
    good.chmod(0o644)
    os.chown(good, 1234, 0)
    refused(good, "x.json belongs to user 1234")
    os.chown(good, 0, 1234)
    assert read_trusted(good, 1000)
    safe.chmod(0o1777)
    refused(good, "/cdi can be written by others")
    safe.chmod(0o755)
    for change, back in ((lambda: other.chmod(0o777), lambda: other.chmod(0o755)),
                         (lambda: os.chown(other, 1234, 0), lambda: os.chown(other, 0, 0))):  # fmt: skip
        change()
        refused(linked, "/other ")
        back()
    place.chmod(0o777)
    refused(good, str(place))
    place.chmod(0o1777)
    assert read_trusted(good, 1000)


async def test_the_library_for_yaml_is_loaded_when_there_is_some(place: Path) -> None:
    (place / "x.json").write_text(document(device("x")))
    script = (
        "import sys; from pathlib import Path; from shoald import compose; from shoald.containers import cdi_files;"
        "place = Path(sys.argv[1]); cdi_files.cdi_library([place]); print('yaml' in sys.modules);"
        "(place / 'y.yaml').write_text('{}'); cdi_files.cdi_library([place]); print('yaml' in sys.modules)"
    )
    done = await run([sys.executable, "-c", script, str(place)])
    assert done.stdout.split() == [b"False", b"True"]


# --- config.json ------------------------------------------------------------------------------------------------------


def test_hooks_in_the_configuration() -> None:
    given = {"poststop": (Hook("/b", timeout=1000),), "createRuntime": (Hook("/a", ("a", "x"), ("A=1",), 3),)}
    hooks = hook_list(given)
    assert hooks == {
        "createRuntime": [{"path": "/a", "args": ["a", "x"], "timeout": 3, "env": ["A=1"]}],
        "poststop": [{"path": "/b", "args": ["/b"], "timeout": 20, "env": [hooks["poststop"][0]["env"][0]]}],
    }
    assert hooks["poststop"][0]["env"][0].startswith("PATH=/"), "else runc gives it the environment of the image"
    linux = {"gidMappings": [{"containerID": 0, "hostID": 7000, "size": 9}]}
    assert reader({"linux": linux, "hooks": hooks}) == 0
    assert reader({"linux": linux, "hooks": {"createContainer": []}}) == 7000
    assert reader({"linux": {}, "hooks": {"createContainer": []}}) == 0
    assert with_output({"linux": {}}, "/x") == {"linux": {}}
    told = with_output({"hooks": hooks, "annotations": {"a": "b"}}, "/x")
    assert told["annotations"] == {"a": "b", "run.oci.hooks.stdout": "/x", "run.oci.hooks.stderr": "/x"}
