"""Image and request become a process, mounts and limits, as Docker has it; what can never work is refused."""

from __future__ import annotations

import asyncio
import math
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument, ShoalError, Unimplemented
from shoald.containers.etc import hosts_text
from shoald.containers.names import random_name
from shoald.containers.plan import (
    check_spec,
    clean_target,
    merge_env,
    parse_signal,
    process_of,
    stop_signal_of,
    with_image_volumes,
)
from shoald.containers.watch import Locks, Watch
from shoald.model.container import (
    ContainerSpec,
    Mount,
    MountKind,
    PortMapping,
    Resources,
    RestartPolicy,
    RestartPolicyName,
)
from shoald.oci.config import ContainerDefaults, ImageConfig, RootFS


def image(**defaults: Any) -> ImageConfig:
    return ImageConfig(
        architecture="amd64", os="linux", rootfs=RootFS(diff_ids=[]), config=ContainerDefaults(**defaults)
    )


def spec(**fields: Any) -> ContainerSpec:
    return ContainerSpec(image="i", **fields)


E, C = ["entry", "e"], ["cmd", "c"]


class TestProcess:
    @pytest.mark.parametrize(
        ("entrypoint", "command", "of_image", "args"),
        [
            (None, (), (E, C), "entry e cmd c"),
            (None, ("x",), (E, C), "entry e x"),
            (None, ("x",), (None, C), "x"),
            (None, (), (None, C), "cmd c"),
            (None, (), (E, None), "entry e"),
            (("sh",), (), (E, C), "sh"),
            (("sh", "-c"), ("x",), (E, C), "sh -c x"),
            ((), ("x",), (E, C), "x"),
            (("",), ("x",), (E, C), "x"),
        ],
    )
    def test_arguments(self, entrypoint: Any, command: Any, of_image: Any, args: str) -> None:
        config = image(entrypoint=of_image[0], cmd=of_image[1])
        assert " ".join(process_of(spec(entrypoint=entrypoint, command=command), config).args) == args

    @pytest.mark.parametrize(
        ("entrypoint", "of_image"), [(None, (None, None)), ((), (E, C)), (("",), (E, C)), (None, ([], []))]
    )
    def test_no_command(self, entrypoint: Any, of_image: Any) -> None:
        with pytest.raises(InvalidArgument) as caught:
            process_of(spec(entrypoint=entrypoint), image(entrypoint=of_image[0], cmd=of_image[1]))
        assert caught.value.reason == "NO_COMMAND"

    def test_environment(self) -> None:
        made = process_of(spec(command=("x",), env=("B=2", "C", "D=")), image(env=["A=1", "B=1", "C=1", "E=a=b"]))
        assert made.env == ("A=1", "B=2", "E=a=b", "D=")

    @pytest.mark.parametrize(
        ("of_spec", "of_image", "wanted"), [("", "", "/"), ("", "/i", "/i"), ("/s", "/i", "/s"), ("/s", None, "/s")]
    )
    def test_working_directory(self, of_spec: str, of_image: str | None, wanted: str) -> None:
        made = process_of(spec(command=("x",), working_dir=of_spec), image(working_dir=of_image or ""))
        assert made.working_dir == wanted

    @pytest.mark.parametrize(("of_spec", "of_image"), [("relative", ""), ("", "relative"), ("./x", "/ok")])
    def test_a_relative_working_directory_is_refused(self, of_spec: str, of_image: str) -> None:
        with pytest.raises(InvalidArgument, match="absolute path"):
            process_of(spec(command=("x",), working_dir=of_spec), image(working_dir=of_image))

    @pytest.mark.parametrize(("of_spec", "of_image", "wanted"), [("", "", ""), ("", "1:2", "1:2"), ("u", "1:2", "u")])
    def test_user(self, of_spec: str, of_image: str, wanted: str) -> None:
        assert process_of(spec(command=("x",), user=of_spec), image(user=of_image)).user == wanted

    @pytest.mark.parametrize("defaults", [{"cmd": ["a\0"]}, {"env": ["A=\0"]}, {"user": "a\0"}, {"working_dir": "/\0"}])
    def test_an_image_with_nul_bytes_is_refused(self, defaults: dict[str, Any]) -> None:
        with pytest.raises(InvalidArgument) as caught:
            process_of(spec(), image(**{"cmd": ["x"]} | defaults))
        assert caught.value.reason == "INVALID_STRING"


NAMES = st.sampled_from(["A", "B", "C", "D"])
ENTRIES = st.lists(st.one_of(NAMES, st.tuples(NAMES, st.text("x=", max_size=2)).map("=".join)), max_size=8)


@given(ENTRIES, ENTRIES)
def test_merged_environment_is_the_last_word(first: list[str], second: list[str]) -> None:
    wanted: dict[str, str] = {}
    for entry in [*first, *second]:
        name, given_, value = entry.partition("=")
        wanted.pop(name, None)
        if given_:
            wanted[name] = value
    merged = merge_env(first, second)
    assert dict(entry.split("=", 1) for entry in merged) == wanted
    assert len(merged) == len(wanted)


class TestSignals:
    @pytest.mark.parametrize(
        ("text", "number"),
        [
            ("SIGTERM", 15), ("term", 15), ("Sighup", 1), ("9", 9), ("09", 9), ("64", 64), (" KILL ", 9),
            ("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax", 64), ("RTMAX-1", 63), ("SIGRTMIN+30", 64),
        ],
    )  # fmt: skip
    def test_read(self, text: str, number: int) -> None:
        assert parse_signal(text) == number

    @pytest.mark.parametrize(
        "text",
        [
            "", "0", "65", "-9", "9 9", "9.0", "SIGSIGTERM", "SIG", "NONE", "RTMIN+31", "RTMAX+1", "RTMIN-1", "\u00b2",
            "\u0669", "9" * 5000, "x" * 10**6,
        ],
    )  # fmt: skip
    def test_refused(self, text: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            parse_signal(text)
        assert caught.value.reason == "INVALID_SIGNAL"
        assert len(caught.value.message) < 200

    def test_which_stops(self) -> None:
        assert stop_signal_of(spec(), image()) == signal.SIGTERM
        assert stop_signal_of(spec(), image(stop_signal="SIGQUIT")) == signal.SIGQUIT
        assert stop_signal_of(spec(stop_signal="INT"), image(stop_signal="SIGQUIT")) == signal.SIGINT


def bind(target: str, source: str = "/s") -> Mount:
    return Mount(MountKind.BIND, target, source)


ALWAYS = RestartPolicy(RestartPolicyName.ALWAYS)


class TestCheck:
    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"name": "a"},
            {"name": "A_b.c-1"},
            {"hostname": "web-1.example.com"},
            {"hostname": "my_host"},
            {"hostname": "h" * 64},
            {"network": "host"},
            {"network": "none", "hostname": "h"},
            {"ports": (PortMapping(80), PortMapping(65535, "0.0.0.0", 65535, "udp"))},
            {"resources": Resources(6 << 20, 10_000_000, -1)},
            {"restart_policy": RestartPolicy(RestartPolicyName.ON_FAILURE, 3)},
            {"restart_policy": ALWAYS},
            {"auto_remove": True},
            {"mounts": (bind("/a"), bind("/a/b"), Mount(MountKind.TMPFS, "/t", tmpfs_mode=0o1777))},
            {"env": ("A=", "B")},
            {"stop_timeout_s": -1.0},
            {"userns": "host"},
        ],
    )
    def test_accepted(self, fields: dict[str, Any]) -> None:
        check_spec(spec(**fields))

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"name": "-a"}, "INVALID_NAME"),
            ({"name": "a/b"}, "INVALID_NAME"),
            ({"name": "a\n"}, "INVALID_NAME"),
            ({"name": ".."}, "INVALID_NAME"),
            ({"name": "a" * 256}, "INVALID_NAME"),
            ({"hostname": "-a"}, "INVALID_HOSTNAME"),
            ({"hostname": "a..b"}, "INVALID_HOSTNAME"),
            ({"hostname": "a b"}, "INVALID_HOSTNAME"),
            ({"hostname": "a\n127.0.0.1 evil"}, "INVALID_HOSTNAME"),
            ({"hostname": "h" * 65}, "INVALID_HOSTNAME"),
            ({"hostname": "h", "network": "host"}, "INVALID_HOSTNAME"),
            ({"userns": "private"}, "INVALID_USERNS"),
            ({"ports": (PortMapping(80),), "network": "none"}, "INVALID_PORTS"),
            ({"ports": (PortMapping(0),)}, "INVALID_PORTS"),
            ({"ports": (PortMapping(65536),)}, "INVALID_PORTS"),
            ({"ports": (PortMapping(80, "", -1),)}, "INVALID_PORTS"),
            ({"ports": (PortMapping(80, "", 0, "sctp"),)}, "INVALID_PORTS"),
            ({"ports": (PortMapping(80, "localhost"),)}, "INVALID_HOST_IP"),
            ({"auto_remove": True, "restart_policy": ALWAYS}, "INVALID_RESTART_POLICY"),
            ({"restart_policy": RestartPolicy(RestartPolicyName.ALWAYS, 3)}, "INVALID_RESTART_POLICY"),
            ({"restart_policy": RestartPolicy(RestartPolicyName.ON_FAILURE, -1)}, "INVALID_RESTART_POLICY"),
            ({"resources": Resources(memory_bytes=1)}, "INVALID_MEMORY"),
            ({"resources": Resources(memory_bytes=-1)}, "INVALID_MEMORY"),
            ({"resources": Resources(nano_cpus=1)}, "INVALID_CPUS"),
            ({"resources": Resources(nano_cpus=-1)}, "INVALID_CPUS"),
            ({"resources": Resources(pids_limit=-2)}, "INVALID_PIDS"),
            ({"env": ("=x",)}, "INVALID_ENV"),
            ({"env": ("",)}, "INVALID_ENV"),
            ({"env": ("A=\0",)}, "INVALID_STRING"),
            ({"command": ("\0",)}, "INVALID_STRING"),
            ({"entrypoint": ("\0",)}, "INVALID_STRING"),
            ({"labels": {"\0": ""}}, "INVALID_STRING"),
            ({"labels": {"": "\0"}}, "INVALID_STRING"),
            ({"user": "\0"}, "INVALID_STRING"),
            ({"working_dir": "/\0"}, "INVALID_STRING"),
            ({"stop_timeout_s": math.nan}, "INVALID_STOP_TIMEOUT"),
            ({"stop_timeout_s": math.inf}, "INVALID_STOP_TIMEOUT"),
            ({"mounts": (bind("relative"),)}, "INVALID_MOUNT"),
            ({"mounts": (bind(""),)}, "INVALID_MOUNT"),
            ({"mounts": (bind("/"),)}, "INVALID_MOUNT"),
            ({"mounts": (bind("//."),)}, "INVALID_MOUNT"),
            ({"mounts": (bind("/a/../b"),)}, "INVALID_MOUNT"),
            ({"mounts": (bind("/a\0"),)}, "INVALID_MOUNT"),
            ({"mounts": (bind("/a"), bind("//a/"))}, "INVALID_MOUNT"),
            ({"mounts": (bind("/a", "relative"),)}, "INVALID_MOUNT"),
            ({"mounts": (bind("/a", "/x\0"),)}, "INVALID_MOUNT"),
            ({"mounts": (Mount(MountKind.TMPFS, "/t", tmpfs_size_bytes=-1),)}, "INVALID_MOUNT"),
            ({"mounts": (Mount(MountKind.TMPFS, "/t", tmpfs_mode=0o10000),)}, "INVALID_MOUNT"),
        ],
    )
    def test_refused(self, fields: dict[str, Any], reason: str) -> None:
        with pytest.raises(InvalidArgument) as caught:
            check_spec(spec(**fields))
        assert caught.value.reason == reason

    def test_not_yet(self) -> None:
        with pytest.raises(Unimplemented, match="::1"):
            check_spec(spec(ports=(PortMapping(80, "::1"),)))

    @given(st.text(max_size=20))
    def test_names_are_safe_as_file_names(self, name: str) -> None:
        try:
            check_spec(spec(name=name))
        except ShoalError:
            return
        assert name == "" or (name not in (".", "..") and "/" not in name and name.isascii() and name.isprintable())


class TestImageVolumes:
    def test_the_request_covers(self) -> None:
        mounts = (bind("/data/"), Mount(MountKind.TMPFS, "/tmp"))
        made = with_image_volumes(
            spec(mounts=mounts), image(volumes={"/data": {}, "/tmp/": {}, "/db": {}, "/a//b": {}})
        )
        assert made[:2] == mounts
        assert [(m.kind, m.target, m.anonymous, m.source) for m in made[2:]] == [
            (MountKind.VOLUME, "/a/b", True, ""),
            (MountKind.VOLUME, "/db", True, ""),
        ]

    def test_strange_paths(self) -> None:
        volumes: dict[str, Any] = {"/": {}, "relative": {}, "/../../etc/x": {}, "/etc/x": {}, "/n\0": {}, "//": {}}
        assert [m.target for m in with_image_volumes(spec(), image(volumes=volumes))] == ["/etc/x"]
        assert with_image_volumes(spec(), image()) == ()

    @given(st.text("/.a", max_size=12))
    def test_clean_targets(self, text: str) -> None:
        cleaned = clean_target("/" + text)
        assert clean_target(cleaned) == cleaned
        assert cleaned.startswith("/")
        assert "//" not in cleaned


def test_names() -> None:
    taken: set[str] = set()
    for _ in range(300):
        name = random_name(taken)
        check_spec(spec(name=name))
        assert name not in taken
        taken.add(name)


class Everything:
    """Says of every name but long ones that it is taken."""

    def __contains__(self, name: object) -> bool:
        return len(str(name)) < 18


def test_a_name_is_found_when_nearly_all_are_taken() -> None:
    assert len(random_name(Everything())) >= 18


@pytest.mark.parametrize(
    ("hostname", "address", "line"),
    [
        ("web", "10.0.0.2", "10.0.0.2\tweb"),
        ("web.example.com", "10.0.0.2", "10.0.0.2\tweb.example.com web"),
        ("web", None, "127.0.1.1\tweb"),
    ],
)
def test_hosts(hostname: str, address: str | None, line: str) -> None:
    text = hosts_text(hostname, address)
    assert text.startswith("127.0.0.1\tlocalhost\n::1\tlocalhost ")
    assert text.endswith(f"\n{line}\n")


async def test_every_waiter_wakes_once_for_a_change() -> None:
    watch = Watch()
    first = watch.event("a")
    assert watch.event("a") is first
    assert watch.event("b") is not first
    watch.changed("a")
    watch.changed("a")
    assert first.is_set()
    assert not watch.event("a").is_set()


async def test_events_that_nobody_waits_for_are_not_kept() -> None:
    watch = Watch()
    for number in range(100):
        watch.event(str(number))
    assert len(watch._events) <= 1


def test_the_last_end() -> None:
    watch = Watch()
    assert (watch.last_end("a"), watch.exits("a")) == (None, 0)
    watch.ended("a", 1, oom_killed=False)
    watch.ended("a", 137, oom_killed=True, error="e")
    end = watch.last_end("a")
    assert end is not None
    assert (end.number, end.exit_code, end.oom_killed, end.error) == (2, 137, True, "e")


async def test_locks_are_kept_only_while_they_are_wanted() -> None:
    locks, order = Locks(), []

    async def hold(name: str) -> None:
        async with locks.get("key"):
            order.append(name)

    async with locks.get("key"), locks.get("other"):
        waiting = [asyncio.create_task(hold(name)) for name in ("a", "b", "c")]
        await asyncio.sleep(0)
        waiting[1].cancel()
    await asyncio.wait(waiting)
    assert order == ["a", "c"]
    assert not locks._locks
