"""Whether the limits of a request can be kept at all, by Docker's rules; pure."""

from __future__ import annotations

import re
from collections.abc import Collection

from shoal.errors import InvalidArgument
from shoald.model.container import Resources

LEAST_MEMORY = 6 << 20
_PERIODS = (1000, 1_000_000)
_LEAST_QUOTA = 1000
_WEIGHTS = (10, 1000)
_CPU_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_MAX_CPUS = 8192


def check_limits(limits: Resources) -> None:
    """Raises InvalidArgument (INVALID_MEMORY, INVALID_CPUS, INVALID_PIDS, INVALID_BLKIO)."""
    _check_memory(limits)
    _check_cpus(limits)
    if limits.pids_limit < -1:
        raise InvalidArgument(f"invalid pids limit {limits.pids_limit}", reason="INVALID_PIDS")
    _check_block_io(limits)


def _check_memory(limits: Resources) -> None:
    memory, swap, reservation = limits.memory_bytes, limits.memory_swap_bytes, limits.memory_reservation_bytes
    swappiness = limits.memory_swappiness
    wrong = ""
    if memory < 0 or (memory and memory < LEAST_MEMORY):
        wrong = "minimum memory limit allowed is 6MB"
    elif swap < -1:
        wrong = f"invalid memory and swap limit {swap}: -1 stands for no limit"
    elif swap > 0 and not memory:
        wrong = "a limit of memory and swap needs a memory limit too"
    elif 0 < swap < memory:
        wrong = "the limit of memory and swap together must not be less than the memory limit"
    elif reservation < 0 or (reservation and reservation < LEAST_MEMORY):
        wrong = "minimum memory reservation allowed is 6MB"
    elif memory and memory < reservation:
        wrong = "the memory limit must not be less than the memory reservation"
    elif swappiness is not None and not 0 <= swappiness <= 100:
        wrong = f"invalid memory swappiness {swappiness}: valid is 0 to 100"
    if wrong:
        raise InvalidArgument(wrong, reason="INVALID_MEMORY")


def _check_cpus(limits: Resources) -> None:
    wrong = ""
    if limits.nano_cpus < 0 or (0 < limits.nano_cpus < 10_000_000):
        wrong = "the processor limit must be at least 0.01"
    elif limits.nano_cpus and (limits.cpu_period or limits.cpu_quota):
        wrong = "--cpus can't go with --cpu-period or --cpu-quota"
    elif limits.cpu_period and not _PERIODS[0] <= limits.cpu_period <= _PERIODS[1]:
        wrong = "the CPU period must be 1000 to 1000000 microseconds"
    elif limits.cpu_quota < -1 or (0 <= limits.cpu_quota < _LEAST_QUOTA and limits.cpu_quota):
        wrong = "the CPU quota must be at least 1000 microseconds"
    elif limits.cpu_shares < 0:
        wrong = f"invalid CPU shares {limits.cpu_shares}: must be positive"
    if wrong:
        raise InvalidArgument(wrong, reason="INVALID_CPUS")
    for text in (limits.cpuset_cpus, limits.cpuset_mems):
        parse_cpuset(text)


def _check_block_io(limits: Resources) -> None:
    if limits.blkio_weight and not _WEIGHTS[0] <= limits.blkio_weight <= _WEIGHTS[1]:
        raise InvalidArgument("the block I/O weight must be 10 to 1000", reason="INVALID_BLKIO")
    for attribute in ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops"):
        seen = set()
        for each in getattr(limits, attribute):
            if not each.path.startswith("/") or "\0" in each.path:
                raise InvalidArgument(f"invalid device path {each.path!r}", reason="INVALID_BLKIO")
            if not 0 < each.rate < 2**63:
                raise InvalidArgument(f"invalid rate {each.rate} for device {each.path}", reason="INVALID_BLKIO")
            if each.path in seen:
                raise InvalidArgument(f"two rates for device {each.path}", reason="INVALID_BLKIO")
            seen.add(each.path)


def parse_cpuset(text: str) -> frozenset[int]:
    """ "0-2,7" -> {0, 1, 2, 7}. Raises InvalidArgument (INVALID_CPUSET)."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        match = _CPU_RANGE.fullmatch(part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not 0 <= first <= last < _MAX_CPUS:
            raise InvalidArgument(f"invalid cpuset {text!r}", reason="INVALID_CPUSET", hint="for example 0-3 or 0,2")
        found.update(range(first, last + 1))
    return frozenset(found)


def check_available(asked: str, available: Collection[int], what: str) -> None:
    """That the host has all of a cpuset. Raises InvalidArgument (INVALID_CPUSET); `what`: "CPUs", "memory nodes"."""
    if parse_cpuset(asked) - set(available):
        have = ",".join(map(str, sorted(available)))
        raise InvalidArgument(
            f"requested {what} are not available: requested {asked}, available: {have}", reason="INVALID_CPUSET"
        )
