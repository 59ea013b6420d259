"""What requests may say of a container's isolation and limits: what is understood, refused, or needs a role."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.containers.etc import extra_hosts, hosts_text, resolv_conf_text
from shoald.containers.exposed import parse_exposed, published
from shoald.containers.health_check import check_health_check, effective_health_check
from shoald.containers.isolation import check_isolation, needs_admin, parse_extra_host
from shoald.containers.limits import check_available, check_limits, parse_cpuset
from shoald.host.seccomp_profile import custom_seccomp
from shoald.model.container import (
    BlkioLimit,
    ContainerSpec,
    Device,
    HealthCheck,
    Mount,
    MountKind,
    PortMapping,
    Resources,
    Ulimit,
)
from shoald.oci.config import ContainerDefaults, Healthcheck
from shoald.runtime.capabilities import ALL_CAPABILITIES, DEFAULT_CAPABILITIES, bounding_set, capability_name
from shoald.runtime.devices import parse_rule
from shoald.runtime.namespaces import joins, with_joins, without_user_namespace
from shoald.runtime.security import security_options
from shoald.runtime.sysctls import normal_name
from shoald.runtime.ulimits import INFINITY, clamped, rlimits
from shoald.runtime.user import lookup
from tests.support import records


def spec(**fields: Any) -> ContainerSpec:
    return ContainerSpec(image="busybox", **fields)


def refused(**fields: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        check_isolation(spec(**fields))
    return caught.value.reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cap_add": ("NOT_THERE",)}, "INVALID_CAPABILITY"),
        ({"cap_drop": ("",)}, "INVALID_CAPABILITY"),
        ({"security_options": ("seccomp",)}, "INVALID_SECURITY_OPTION"),
        ({"security_options": ("no-new-privileges=maybe",)}, "INVALID_SECURITY_OPTION"),
        ({"security_options": ("label=type:x",)}, "INVALID_SECURITY_OPTION"),
        ({"security_options": ("systempaths=all",)}, "INVALID_SECURITY_OPTION"),
        ({"security_options": ("",)}, "INVALID_SECURITY_OPTION"),
        ({"pid_mode": "hosts"}, "INVALID_NAMESPACE_MODE"),
        ({"pid_mode": "container:"}, "INVALID_NAMESPACE_MODE"),
        ({"pid_mode": "shareable"}, "INVALID_NAMESPACE_MODE"),
        ({"uts_mode": "container:x"}, "INVALID_NAMESPACE_MODE"),
        ({"cgroupns_mode": "container:x"}, "INVALID_NAMESPACE_MODE"),
        ({"ipc_mode": "none"}, "INVALID_NAMESPACE_MODE"),
        ({"sysctls": {"kernel.panic": "1"}}, "INVALID_SYSCTL"),
        ({"sysctls": {"kernel/panic": "1"}}, "INVALID_SYSCTL"),
        ({"sysctls": {"net.core.somaxconn": "1"}, "network": "host"}, "INVALID_SYSCTL"),
        ({"sysctls": {"net/core/somaxconn": "1"}, "network": "host"}, "INVALID_SYSCTL"),
        ({"sysctls": {"net.core.somaxconn": "1"}, "network": "container:a"}, "INVALID_SYSCTL"),
        ({"sysctls": {"kernel.shmmax": "1"}, "ipc_mode": "host"}, "INVALID_SYSCTL"),
        ({"sysctls": {"net.../../kernel.panic": "1"}}, "INVALID_SYSCTL"),
        ({"sysctls": {"net.core.somaxconn": "1\n2"}}, "INVALID_SYSCTL"),
        ({"sysctls": {"": "1"}}, "INVALID_SYSCTL"),
        ({"sysctls": {"vm.overcommit_memory": "1"}}, "INVALID_SYSCTL"),
        ({"ulimits": (Ulimit("files", 1, 2),)}, "INVALID_ULIMIT"),
        ({"ulimits": (Ulimit("nofile", 3, 2),)}, "INVALID_ULIMIT"),
        ({"ulimits": (Ulimit("nofile", -1, 2),)}, "INVALID_ULIMIT"),
        ({"ulimits": (Ulimit("nofile", -2, 2),)}, "INVALID_ULIMIT"),
        ({"annotations": {"run.oci.hooks.stdout": "/etc/passwd"}}, "INVALID_ANNOTATION"),
        ({"annotations": {"Run.OCI.seccomp_bpf_data": ""}}, "INVALID_ANNOTATION"),
        ({"annotations": {"org.systemd.property.X": "1"}}, "INVALID_ANNOTATION"),
        ({"annotations": {"module.wasm.image/variant": "compat"}}, "INVALID_ANNOTATION"),
        ({"annotations": {" ": ""}}, "INVALID_ANNOTATION"),
        ({"devices": (Device("fuse"),)}, "INVALID_DEVICE"),
        ({"devices": (Device("/dev/../etc/passwd"),)}, "INVALID_DEVICE"),
        ({"devices": (Device("/dev/fuse", "/x/../../y"),)}, "INVALID_DEVICE"),
        ({"devices": (Device("/dev/fuse", "/"),)}, "INVALID_DEVICE"),
        ({"devices": (Device("/dev/fuse", "/proc/self/exe"),)}, "INVALID_MOUNT"),
        ({"devices": (Device("/dev/fuse", permissions="x"),)}, "INVALID_DEVICE"),
        ({"device_cgroup_rules": ("c 1:3",)}, "INVALID_DEVICE_RULE"),
        ({"cdi_devices": ("gpu",)}, "INVALID_CDI_DEVICE"),
        ({"domainname": "a b"}, "INVALID_HOSTNAME"),
        ({"extra_hosts": ("a",)}, "INVALID_EXTRA_HOST"),
        ({"extra_hosts": ("a:1.2.3",)}, "INVALID_EXTRA_HOST"),
        ({"extra_hosts": ("a\n1.1.1.1 b:1.2.3.4",)}, "INVALID_EXTRA_HOST"),
        ({"extra_hosts": ("a:host-gateway",), "network": "none"}, "CONFLICTING_OPTIONS"),
        ({"dns": ("resolver",)}, "INVALID_DNS"),
        ({"dns": ("1.1.1.1\nnameserver 2.2.2.2",)}, "INVALID_DNS"),
        ({"dns_search": ("a b",)}, "INVALID_DNS"),
        ({"dns_options": ("a\nb",)}, "INVALID_DNS"),
        ({"mac_address": "02:00"}, "INVALID_MAC_ADDRESS"),
        ({"group_add": ("a b",)}, "INVALID_GROUP"),
        ({"shm_size_bytes": -1}, "INVALID_SHM_SIZE"),
        ({"oom_score_adj": 1001}, "INVALID_OOM_SCORE"),
        ({"hostname": "a", "uts_mode": "host"}, "CONFLICTING_OPTIONS"),
        ({"hostname": "a", "network": "container:b"}, "CONFLICTING_OPTIONS"),
        ({"dns": ("1.1.1.1",), "network": "container:b"}, "CONFLICTING_OPTIONS"),
        ({"extra_hosts": ("a:1.1.1.1",), "network": "container:b"}, "CONFLICTING_OPTIONS"),
        ({"mac_address": "02:00:00:00:00:01", "network": "host"}, "CONFLICTING_OPTIONS"),
        ({"ip_address": "10.0.0.1", "network": "host"}, "CONFLICTING_OPTIONS"),
        ({"shm_size_bytes": 5, "ipc_mode": "host"}, "CONFLICTING_OPTIONS"),
        ({"exposed_ports": ("0",)}, "INVALID_PORTS"),
        ({"publish_all": True, "network": "host"}, "INVALID_PORTS"),
        ({"publish_all": True, "network": "container:a"}, "INVALID_PORTS"),
        ({"health_check": HealthCheck(test=("RUN", "x"))}, "INVALID_HEALTH_CHECK"),
        ({"mounts": (Mount(MountKind.TMPFS, "/x", tmpfs_options=("size=1,exec",)),)}, "INVALID_MOUNT"),
    ],
)  # fmt: skip
def test_what_can_never_work_is_refused(fields: dict[str, Any], reason: str) -> None:
    assert refused(**fields) == reason


def test_what_is_understood() -> None:
    check_isolation(
        spec(
            cap_add=("all", "CAP_chown"), cap_drop=("net_raw",), group_add=("audio", "5"), ipc_mode="shareable",
            security_options=("no-new-privileges", "no-new-privileges:true", "label=disable", "label:disable",
                              "seccomp=builtin", "apparmor=unconfined", "systempaths=unconfined"),
            sysctls={"net.ipv4.conf.eth0/1.forwarding": "1", "fs.mqueue.msg_max": "9"},
            ulimits=(Ulimit("core", 0, -1),),
            extra_hosts=("a:1.2.3.4", "b:::1", "c=[fe80::1]", "d_e.f:host-gateway"), dns=("1.1.1.1", "2001:db8::1"),
            dns_search=(".",), dns_options=("ndots:9",), devices=(Device("/dev/fuse", "/dev/x", "r"),),
            cdi_devices=("vendor.com/class=all",), device_cgroup_rules=("a *:* rwm",), annotations={"a.b": ""},
        )
    )  # fmt: skip


# --- capabilities -----------------------------------------------------------------------------------------------------


def test_bounding_sets() -> None:
    assert bounding_set((), ()) == DEFAULT_CAPABILITIES
    assert bounding_set(("ALL",), ()) == ALL_CAPABILITIES
    assert bounding_set((), ("ALL",)) == ()
    assert bounding_set(("chown", "SYS_TIME"), ("all",)) == ("CAP_CHOWN", "CAP_SYS_TIME")
    assert "CAP_CHOWN" in bounding_set(("CHOWN",), ("CHOWN",))
    assert bounding_set((), ("MKNOD",), privileged=True, known=("CAP_CHOWN",)) == ("CAP_CHOWN",)


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*ALL_CAPABILITIES, "ALL", "net_raw"])), st.lists(st.sampled_from(ALL_CAPABILITIES)))
def test_nobody_gets_what_was_neither_default_nor_added(add: list[str], drop: list[str]) -> None:
    held = bounding_set(add, drop)
    asked = {capability_name(each) for each in add}
    assert len(held) == len(set(held))
    if "ALL" not in asked:
        assert set(held) <= {*DEFAULT_CAPABILITIES, *asked}
        assert not set(held) & (set(drop) - asked)
    if needs_admin(spec(cap_add=tuple(add))) is None:
        assert set(held) <= set(DEFAULT_CAPABILITIES)


def test_the_last_security_option_counts() -> None:
    found = security_options(("seccomp=unconfined", "no-new-privileges=false", "seccomp={}", "no-new-privileges"))
    assert (found.seccomp, found.no_new_privileges) == ("{}", True)
    assert security_options(()).no_new_privileges is None


# --- user namespaces --------------------------------------------------------------------------------------------------


def test_joins() -> None:
    asked = spec(network="container:a", pid_mode="container:b", ipc_mode="shareable")
    assert joins(asked) == {"network": "a", "pid": "b"}
    assert joins(with_joins(asked, {"network": "1", "pid": "2"})) == {"network": "1", "pid": "2"}
    assert not without_user_namespace(asked)
    assert all(without_user_namespace(spec(**each)) for each in ({"privileged": True}, {"pid_mode": "host"}))


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"memory_bytes": 5 << 20}, "INVALID_MEMORY"),
        ({"memory_bytes": -1}, "INVALID_MEMORY"),
        ({"memory_swap_bytes": 1 << 30}, "INVALID_MEMORY"),
        ({"memory_bytes": 1 << 30, "memory_swap_bytes": 1 << 20}, "INVALID_MEMORY"),
        ({"memory_swap_bytes": -2}, "INVALID_MEMORY"),
        ({"memory_reservation_bytes": 1}, "INVALID_MEMORY"),
        ({"memory_bytes": 10 << 20, "memory_reservation_bytes": 20 << 20}, "INVALID_MEMORY"),
        ({"memory_swappiness": 101}, "INVALID_MEMORY"),
        ({"memory_swappiness": -1}, "INVALID_MEMORY"),
        ({"nano_cpus": 1}, "INVALID_CPUS"),
        ({"nano_cpus": 10**9, "cpu_quota": 5000}, "INVALID_CPUS"),
        ({"cpu_period": 999}, "INVALID_CPUS"),
        ({"cpu_period": 1_000_001}, "INVALID_CPUS"),
        ({"cpu_quota": 999}, "INVALID_CPUS"),
        ({"cpu_quota": -2}, "INVALID_CPUS"),
        ({"cpu_shares": -1}, "INVALID_CPUS"),
        ({"cpuset_cpus": "a"}, "INVALID_CPUSET"),
        ({"cpuset_cpus": "3-1"}, "INVALID_CPUSET"),
        ({"cpuset_mems": "0,"}, "INVALID_CPUSET"),
        ({"cpuset_cpus": "0-99999"}, "INVALID_CPUSET"),
        ({"blkio_weight": 9}, "INVALID_BLKIO"),
        ({"blkio_weight": 1001}, "INVALID_BLKIO"),
        ({"device_read_bps": (BlkioLimit("sda", 1),)}, "INVALID_BLKIO"),
        ({"device_read_bps": (BlkioLimit("/dev/sda", 0),)}, "INVALID_BLKIO"),
        ({"device_read_bps": (BlkioLimit("/dev/sda", 2**63),)}, "INVALID_BLKIO"),
        ({"device_write_iops": (BlkioLimit("/dev/sda", 1), BlkioLimit("/dev/sda", 2))}, "INVALID_BLKIO"),
        ({"pids_limit": -2}, "INVALID_PIDS"),
    ],
)
def test_limits_that_can_never_be_kept(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_limits(Resources(**fields))
    assert caught.value.reason == reason


def test_limits_that_can() -> None:
    check_limits(Resources(memory_bytes=6 << 20, memory_swap_bytes=-1, memory_swappiness=0, cpu_quota=-1, cpu_shares=1))
    assert parse_cpuset("0-2,7") == {0, 1, 2, 7}
    assert parse_cpuset("") == frozenset()
    check_available("0-1", {0, 1}, "CPUs")
    with pytest.raises(InvalidArgument, match="requested 0-2, available: 0,1"):
        check_available("0-2", {0, 1}, "CPUs")


def test_rlimits_are_clamped_with_a_warning() -> None:
    asked = (Ulimit("nofile", 10, 2000), Ulimit("core", -1, -1))
    assert rlimits(asked, None)[1] == {"type": "RLIMIT_CORE", "soft": INFINITY, "hard": INFINITY}
    assert rlimits(asked, {"nofile": 100, "core": 5})[0] == {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 100}
    assert rlimits(asked, {"nofile": 100, "core": 5})[1] == {"type": "RLIMIT_CORE", "soft": 5, "hard": 5}
    assert len(clamped(asked, {"nofile": 100, "core": 5})) == 2
    assert clamped(asked, None) == clamped(asked, {"nofile": 2000, "core": INFINITY}) == []


# --- seccomp ----------------------------------------------------------------------------------------------------------


def _custom(document: object) -> dict[str, Any]:
    return custom_seccomp(json.dumps(document), DEFAULT_CAPABILITIES, "x86_64", (6, 1))


def test_a_profile_in_dockers_format() -> None:
    found = _custom(
        {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
            "syscalls": [
                {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "comment": "", "includes": {}, "args": []},
                {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
                {"name": "socket", "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "value": 2**64 - 1, "op": "SCMP_CMP_EQ"}]},
            ],
        }
    )  # fmt: skip
    assert found["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]
    assert [rule["names"] for rule in found["syscalls"]] == [["read", "write"], ["ptrace"], ["socket"]]


RULE = {"names": ["read"], "action": "SCMP_ACT_ERRNO"}


@pytest.mark.parametrize(
    "document",
    [
        [], {}, "x", {"defaultAction": 5}, {"defaultAction": "SCMP_ACT_MAYBE"}, {"defaultAction": "SCMP_ACT_NOTIFY"},
        *({"defaultAction": "SCMP_ACT_ALLOW", **each} for each in (
            {"syscalls": [{}]}, {"syscalls": {}}, {"syscalls": [{**RULE, "names": [5]}]}, {"listenerPath": "/run/x"},
            {"syscalls": [{**RULE, "name": "write"}]}, {"syscalls": [{**RULE, "errnoRet": -1}]},
            {"syscalls": [{**RULE, "action": "SCMP_ACT_NOTIFY"}]}, {"architectures": ["SCMP_ARCH_PDP11"]},
            {"syscalls": [{**RULE, "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]},
            {"syscalls": [{**RULE, "args": [{"index": 0, "value": 2**64, "op": "SCMP_CMP_EQ"}]}]},
            {"syscalls": [{**RULE, "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_ODD"}]}]},
            {"syscalls": [{**RULE, "includes": {"minKernel": "new"}}]}, {"flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]},
            {"syscalls": [{**RULE, "errno": "EWHAT"}]},
        )),
    ],
)  # fmt: skip
def test_bad_profiles(document: object) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _custom(document)
    assert caught.value.reason == "INVALID_SECCOMP"


@settings(max_examples=80)
@given(st.text(max_size=60) | st.integers(1, 3000).map(lambda n: '{"defaultAction":' + "[" * n))
def test_no_text_breaks_the_parser_of_profiles(text: str) -> None:
    with pytest.raises(InvalidArgument):
        custom_seccomp(text, (), "x86_64", (6, 1))


# --- names ------------------------------------------------------------------------------------------------------------


def test_resolv_conf() -> None:
    host = "# comment\nnameserver 9.9.9.9\ndomain old.example\nsearch old.example\noptions edns0\nsortlist x\n"
    assert resolv_conf_text(host, spec()) == host
    found = resolv_conf_text(host, spec(dns=("1.1.1.1", "1.0.0.1"), dns_search=("a", "b"), dns_options=("x", "y")))
    lines = [line for line in found.splitlines() if not line.startswith("#")]
    assert lines == ["nameserver 1.1.1.1", "nameserver 1.0.0.1", "search a b", "options x y", "sortlist x"]
    assert "search" not in resolv_conf_text(host, spec(dns_search=(".",)))
    assert "nameserver 9.9.9.9" in resolv_conf_text(host, spec(dns_search=("z",)))


def test_extra_hosts() -> None:
    assert parse_extra_host("a:::1") == ("a", "::1")
    assert parse_extra_host("a=[::1]") == ("a", "::1")
    assert extra_hosts(spec(extra_hosts=("up:host-gateway",)), "10.0.0.1") == [("up", "10.0.0.1")]
    with pytest.raises(FailedPrecondition):
        extra_hosts(spec(extra_hosts=("up:host-gateway",)), "")
    assert hosts_text("box.example.org", "10.1.1.1", [("a", "1.2.3.4")]).endswith(
        "10.1.1.1\tbox.example.org box\n1.2.3.4\ta\n"
    )


def test_groups_are_found_in_the_image() -> None:
    passwd, group = b"app:x:5:6::/home/app:\n", b"app:x:6:\naudio:x:29:app\nvideo:x:44:\n"
    assert lookup("app", passwd, group, ("video", "77", "6")).additional_gids == (6, 29, 44, 77)
    assert lookup("app:video", passwd, group, ("audio",)).additional_gids == (29,)
    for bad in ("nobody", "4294967296", "-1"):
        with pytest.raises(InvalidArgument):
            lookup("app", passwd, group, (bad,))


def test_names_of_sysctls() -> None:
    assert normal_name("net/ipv4/conf/eth0.1/forwarding") == "net.ipv4.conf.eth0/1.forwarding"
    assert normal_name("net.ipv4.conf.eth0/1.forwarding") == "net.ipv4.conf.eth0/1.forwarding"


# --- devices ----------------------------------------------------------------------------------------------------------


def test_device_rules() -> None:
    assert parse_rule("c 189:* rmw") == {"allow": True, "type": "c", "access": "rmw", "major": 189}
    assert parse_rule("a *:* rwm") == {"allow": True, "type": "a", "access": "rwm"}
    for bad in ("c 1:3 rwmr", "d 1:3 r", "c 1 r", "c 1:3 r\n", " c 1:3 r", "c -1:3 r"):
        with pytest.raises(InvalidArgument):
            parse_rule(bad)


# --- health and ports -------------------------------------------------------------------------------------------------


def test_health_checks_are_merged() -> None:
    image = Healthcheck(test=["CMD", "probe"], interval=10**9, retries=7)
    assert effective_health_check(HealthCheck(), None) is None
    assert effective_health_check(HealthCheck(interval_s=5), None) is None
    assert effective_health_check(HealthCheck(test=("NONE",)), image) is None
    assert effective_health_check(HealthCheck(), Healthcheck(test=["NONE"])) is None
    assert effective_health_check(HealthCheck(), image) == HealthCheck(("CMD", "probe"), 1.0, 30.0, 0.0, 5.0, 7)
    strange = Healthcheck(test=["CMD", "x"], interval=-5, timeout=-1, retries=-3)
    assert effective_health_check(HealthCheck(), strange) == HealthCheck(("CMD", "x"), 30.0, 30.0, 0.0, 5.0, 3)
    assert effective_health_check(HealthCheck(), Healthcheck(test=["WHAT", "x"])) is None
    own = HealthCheck(test=("CMD-SHELL", "mine"), timeout_s=2, retries=1)
    assert effective_health_check(own, image) == HealthCheck(("CMD-SHELL", "mine"), 1.0, 2, 0.0, 5.0, 1)


@pytest.mark.parametrize(
    "bad",
    [
        HealthCheck(test=("CMD",)), HealthCheck(test=("CMD-SHELL", "")), HealthCheck(test=("CMD-SHELL", "a", "b")),
        HealthCheck(test=("NONE",), retries=1), HealthCheck(test=("NONE", "x")), HealthCheck(retries=-1),
        HealthCheck(interval_s=0.0001), HealthCheck(timeout_s=-1), HealthCheck(test=("CMD", "a\0")),
    ],
)  # fmt: skip
def test_bad_health_checks(bad: HealthCheck) -> None:
    with pytest.raises(InvalidArgument):
        check_health_check(bad)


def test_exposed_ports_are_published() -> None:
    made = records.image("app").config
    from msgspec.structs import replace

    image = replace(made, config=ContainerDefaults(exposed_ports={"80/tcp": {}, "53/udp": {}, "99": {}}))
    assert image.defaults.exposed_ports
    mine = (PortMapping(80, host_port=8080),)
    assert published(spec(ports=mine), image) == mine
    found = published(spec(ports=mine, publish_all=True, exposed_ports=("7000-7001/UDP",)), image)
    assert found == (
        *mine, PortMapping(53, protocol="udp"), PortMapping(99), PortMapping(7000, protocol="udp"),
        PortMapping(7001, protocol="udp"),
    )  # fmt: skip
    for bad in ("", "0", "70000", "2-1", "80/sctp", "x"):
        with pytest.raises(InvalidArgument):
            list(parse_exposed(bad))
