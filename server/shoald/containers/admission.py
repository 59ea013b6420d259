"""What this host makes of a request: whether it can do it at all, which parts only in another way, the filter of its
system calls. Found out before anything is made."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shoal.errors import FailedPrecondition, InvalidArgument
from shoald.containers.equipment import equipment
from shoald.containers.limits import check_available, parse_cpuset
from shoald.host import cgroups, rights
from shoald.host.cgroups import Cgroups, Mode
from shoald.host.kernel import kernel_version
from shoald.host.seccomp import linux_seccomp
from shoald.host.seccomp_profile import custom_seccomp
from shoald.model.container import ContainerSpec
from shoald.runtime.capabilities import ALL_CAPABILITIES, capability_name
from shoald.runtime.namespaces import without_user_namespace
from shoald.runtime.resources import HostLimits, unenforced
from shoald.runtime.security import BUILTIN, UNCONFINED, security_options
from shoald.runtime.spec import bounding_capabilities
from shoald.runtime.ulimits import clamped, host_hard_limits


class Admission:
    """`profile`: the host's seccomp profile as a document, None for none. `cdi_directories`: see `cdi_library`."""

    def __init__(
        self, limits: HostLimits, profile: Mapping[str, Any] | None, cdi_directories: Sequence[Path] = ()
    ) -> None:
        self._limits = limits
        self._cdi_directories = cdi_directories
        self._profile = profile
        self._machine, self._kernel = os.uname().machine, kernel_version()
        self._known = rights.known_capabilities(ALL_CAPABILITIES)
        self._givable = tuple(name for name in rights.givable_capabilities(ALL_CAPABILITIES) if name in self._known)
        self._filters: dict[Sequence[str], dict[str, Any]] = {}

    def capabilities(self, *, user_namespace: bool) -> tuple[str, ...]:
        """All that a container can have here. In a user namespace of its own these are all that the kernel knows."""
        return self._known if user_namespace else self._givable

    def check(self, spec: ContainerSpec) -> None:
        """Raises InvalidArgument and FailedPrecondition for what this host can't do."""
        self._check_capabilities(spec)
        self._check_processors(spec)
        _check_apparmor(security_options(spec.security_options).apparmor)
        self.seccomp(spec, user_namespace=not without_user_namespace(spec))
        equipment(spec, self._cdi_directories)

    def _check_capabilities(self, spec: ContainerSpec) -> None:
        here = self.capabilities(user_namespace=not without_user_namespace(spec))
        for name in map(capability_name, spec.cap_add):
            if name in ALL_CAPABILITIES and name not in here:
                raise InvalidArgument(
                    f"capability {name} is not supported by this kernel or not available to the daemon",
                    reason="INVALID_CAPABILITY",
                )

    def _check_processors(self, spec: ContainerSpec) -> None:
        limits = spec.resources
        for asked, kind, what in ((limits.cpuset_cpus, "cpu", "CPUs"), (limits.cpuset_mems, "node", "memory nodes")):
            if asked and (online := rights.online(kind)):
                check_available(asked, parse_cpuset(online), what)
        count = os.cpu_count() or 1
        if limits.nano_cpus > count * 1_000_000_000:
            raise InvalidArgument(
                f"range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available",
                reason="INVALID_CPUS",
            )

    def seccomp(self, spec: ContainerSpec, *, user_namespace: bool) -> Mapping[str, Any] | None:
        """The `linux.seccomp` object; None for no filter. Raises InvalidArgument (INVALID_SECCOMP)."""
        asked = security_options(spec.security_options).seccomp
        known = self.capabilities(user_namespace=user_namespace)
        held = tuple(name for name in bounding_capabilities(spec, known) if name in known)
        if asked not in ("", BUILTIN, UNCONFINED):
            return custom_seccomp(asked, held, self._machine, self._kernel)
        if self._profile is None or asked == UNCONFINED or (spec.privileged and asked != BUILTIN):
            return None
        if held not in self._filters:
            self._filters[held] = linux_seccomp(self._profile, held, self._machine, self._kernel)
        return self._filters[held]

    def warnings(self, spec: ContainerSpec) -> list[str]:
        """What is done in another way than asked, for people."""
        found = [*unenforced(spec.resources, self._limits), *clamped(spec.ulimits, self._limits.hard_limits)]
        floor = self._limits.oom_score_floor
        if spec.oom_score_adj and floor is not None and spec.oom_score_adj < floor:
            found.append(f"this host allows no oom score adjustment below {floor}")
        return found


def host_limits(host: Cgroups) -> HostLimits:
    """What this process may limit and raise (I/O)."""
    unlimited = rights.may(rights.SYS_RESOURCE)
    unified = host.mode is Mode.UNIFIED
    memory = "memory" in host.controllers and not unified
    top = host.path("/", "memory")
    swap = top is not None and (unified or (top / "memory.memsw.limit_in_bytes").exists())
    return HostLimits(
        controllers=host.controllers,
        swap=swap,
        hard_limits=None if unlimited else host_hard_limits(),
        unified=unified,
        swappiness=memory,
        oom_control=memory,
        blkio_weight=cgroups.knows_io_weights(host),
        oom_score_floor=None if unlimited else rights.oom_score(),
    )


def _check_apparmor(profile: str) -> None:
    if profile in ("", UNCONFINED):
        return
    loaded = rights.apparmor_profiles()
    if loaded is None:
        raise FailedPrecondition(
            f"this host has no AppArmor: the profile {profile!r} can't be applied", reason="NO_APPARMOR"
        )
    if profile not in loaded:
        raise FailedPrecondition(
            f"AppArmor profile {profile!r} is not loaded on this host", reason="NO_APPARMOR_PROFILE",
            hint="load it with apparmor_parser",
        )  # fmt: skip
