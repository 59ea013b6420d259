"""The flags of isolation, limits, names and health of `run` and `create`, parsed; and their part of the message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from shoalctl.flags import isolation, sizes, times
from shoalctl.flags.empty import EMPTY
from shoalctl.flags.fault import UsageFault
from shoalctl.flags.isolation import DeviceFlag, UlimitFlag

if TYPE_CHECKING:
    from shoal.v1 import container_pb2

_RATES = {
    "device_read_bps": True,
    "device_write_bps": True,
    "device_read_iops": False,
    "device_write_iops": False,
}
"""Field of the limits -> whether its rate is a size."""

_SPEC_FIELDS = (
    *("cap_add", "cap_drop", "privileged", "group_add", "domainname", "dns", "dns_search", "dns_options"),
    *("mac_address", "ip_address", "ip6_address", "network_aliases", "device_cgroup_rules", "oom_score_adj"),
    *("extra_hosts", "pid_mode", "ipc_mode", "uts_mode", "cgroupns_mode", "exposed_ports", "publish_all_ports"),
)
_LIMIT_FIELDS = (
    "oom_kill_disable",
    "cpu_shares",
    "cpu_period",
    "cpu_quota",
    "cpuset_cpus",
    "cpuset_mems",
    "blkio_weight",
)
_RANGES = {
    "blkio_weight": (0, 1000),
    "memory_swappiness": (-1, 100),
    "oom_score_adj": (-1000, 1000),
    "cpu_shares": (0, 2**31),
    "cpu_period": (0, 1_000_000),
    "cpu_quota": (-1, 2**53),
    "health_retries": (0, 2**31 - 1),
}
_HEALTH_TIMES = ("interval", "timeout", "start_period", "start_interval")


class IsolationOptions(NamedTuple):
    """`spec` and `limits`: fields of the messages that need no parsing. Sizes in bytes."""

    spec: Mapping[str, Any] = EMPTY
    limits: Mapping[str, Any] = EMPTY
    security: Sequence[str] = ()
    devices: Sequence[DeviceFlag] = ()
    cdi: Sequence[str] = ()
    ulimits: Sequence[UlimitFlag] = ()
    sysctls: Mapping[str, str] = EMPTY
    annotations: Mapping[str, str] = EMPTY
    shm_size: int = 0
    rates: Mapping[str, Sequence[tuple[str, int]]] = EMPTY
    health: Mapping[str, timedelta] = EMPTY
    health_test: Sequence[str] = ()
    health_retries: int = 0
    labels: Mapping[str, str] = EMPTY

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> IsolationOptions:
        """From the values of the flags. Raises UsageFault."""
        for name, (low, high) in _RANGES.items():
            if not low <= given[name] <= high:
                raise UsageFault(f"--{name.replace('_', '-')}: {given[name]} is not {low} to {high}")
        named = [text for text in given["devices"] or () if isolation.is_cdi(text)]
        gpus = isolation.parse_gpus(given["gpus"]) if given["gpus"] else []
        return cls(
            spec={name: given[name] for name in _SPEC_FIELDS if given[name]},
            limits=_limits(given),
            security=[isolation.security_option(text) for text in given["security_opt"] or ()],
            devices=[isolation.parse_device(text) for text in given["devices"] or () if not isolation.is_cdi(text)],
            cdi=[*named, *gpus],
            ulimits=[isolation.parse_ulimit(text) for text in given["ulimit"] or ()],
            sysctls=isolation.parse_pairs("--sysctl", given["sysctl"] or ()),
            annotations=isolation.parse_pairs("--annotation", given["annotation"] or ()),
            shm_size=sizes.parse_size(given["shm_size"]) if given["shm_size"] else 0,
            rates={name: _rates(name, given[name] or ()) for name in _RATES},
            health=_health_times(given),
            health_test=_health_test(given),
            health_retries=given["health_retries"],
            labels=isolation.label_files(given["label_file"] or ()),
        )

    def fill(self, message: container_pb2.ContainerSpec) -> None:
        """Add this part to the message."""
        from shoal.v1 import container_pb2

        filled = container_pb2.ContainerSpec(
            **self.spec,
            resources=container_pb2.Resources(**self.limits),
            security_options=self.security,
            devices=[
                container_pb2.Device(
                    path_on_host=each.path, path_in_container=each.inside, permissions=each.permissions
                )
                for each in self.devices
            ],
            cdi_devices=self.cdi,
            ulimits=[container_pb2.Ulimit(name=each.name, soft=each.soft, hard=each.hard) for each in self.ulimits],
            sysctls=self.sysctls,
            annotations=self.annotations,
            shm_size_bytes=self.shm_size,
            labels={name: value for name, value in self.labels.items() if name not in message.labels},
        )
        for name, rates in self.rates.items():
            getattr(filled.resources, name).extend(container_pb2.BlkioLimit(path=p, rate=r) for p, r in rates)
        if self.health_test:
            filled.health_check.test.extend(self.health_test)
        if self.health_retries:
            filled.health_check.retries = self.health_retries
        for name, span in self.health.items():
            getattr(filled.health_check, name).FromTimedelta(span)
        message.MergeFrom(filled)


def _limits(given: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: given[name] for name in _LIMIT_FIELDS if given[name]}
    if given["memory_swap"]:
        swap = given["memory_swap"]
        found["memory_swap_bytes"] = -1 if swap == "-1" else sizes.parse_size(swap)
    if given["memory_reservation"]:
        found["memory_reservation_bytes"] = sizes.parse_size(given["memory_reservation"])
    if given["memory_swappiness"] != -1:
        found["memory_swappiness"] = given["memory_swappiness"]
    return found


def _rates(name: str, entries: Sequence[str]) -> list[tuple[str, int]]:
    flag = "--" + name.replace("_", "-")
    return [isolation.parse_rate(flag, text, size=_RATES[name]) for text in entries]


def _health_times(given: Mapping[str, Any]) -> dict[str, timedelta]:
    texts = {name: given[f"health_{name}"] for name in _HEALTH_TIMES}
    return {name: times.parse_duration(text) for name, text in texts.items() if text}


def _health_test(given: Mapping[str, Any]) -> list[str]:
    asked = given["health_cmd"] or given["health_retries"] or any(given[f"health_{name}"] for name in _HEALTH_TIMES)
    if given["no_healthcheck"]:
        if asked:
            raise UsageFault("--no-healthcheck contradicts the --health options")
        return ["NONE"]
    return ["CMD-SHELL", given["health_cmd"]] if given["health_cmd"] else []
