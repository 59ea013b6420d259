"""The part of an image configuration that a Dockerfile reads and writes, and the history that it adds.

Plain OCI JSON values in and out (image-spec config.md), so that nothing here depends on a codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shoald.dockerfile.instructions import HealthcheckConfig

HISTORY_COMMENT = "buildkit.dockerfile.v0"
"""What Docker's builder writes into `comment`; tools tell its `created_by` lines from the legacy builder's by it."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH where the base sets none."""
DEFAULT_SHELL = ("/bin/sh", "-c")
"""SHELL where none is set."""


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One entry of an image's `history`, without its time."""

    created_by: str
    empty_layer: bool
    comment: str = HISTORY_COMMENT

    def to_oci(self) -> dict[str, Any]:
        """The JSON object; `created` is for the caller to add."""
        entry: dict[str, Any] = {"created_by": self.created_by, "comment": self.comment}
        return entry | {"empty_layer": True} if self.empty_layer else entry


@dataclass(frozen=True, slots=True)
class StageConfig:
    """Defaults for containers of the image. Tuples keep the order of the Dockerfile; None is not set."""

    env: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    args_escaped: bool = False
    shell: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: HealthcheckConfig | None = None
    on_build: tuple[str, ...] = ()
    author: str = ""

    @classmethod
    def from_oci(cls, config: Mapping[str, Any] | None, author: str = "") -> StageConfig:
        """Read the `config` object of an image; null and absent members are the same."""
        given = {key: value for key, value in (config or {}).items() if value is not None}
        return cls(
            env=tuple(given.get("Env", ())),
            user=given.get("User", ""),
            working_dir=given.get("WorkingDir", ""),
            entrypoint=_words(given.get("Entrypoint")),
            cmd=_words(given.get("Cmd")),
            args_escaped=bool(given.get("ArgsEscaped", False)),
            shell=tuple(given.get("Shell", ())),
            labels=dict(given.get("Labels", {})),
            volumes=tuple(given.get("Volumes", ())),
            exposed_ports=tuple(given.get("ExposedPorts", ())),
            stop_signal=given.get("StopSignal", ""),
            healthcheck=_health_from(given.get("Healthcheck")),
            on_build=tuple(given.get("OnBuild", ())),
            author=author,
        )

    def to_oci(self) -> dict[str, Any]:
        """The `config` object; members that are not set are left out."""
        members: dict[str, Any] = {
            "User": self.user,
            "ExposedPorts": {port: {} for port in self.exposed_ports},
            "Env": list(self.env),
            "Entrypoint": list(self.entrypoint or ()),
            "Cmd": list(self.cmd or ()),
            "Healthcheck": _health_to(self.healthcheck),
            "ArgsEscaped": self.args_escaped,
            "Volumes": {path: {} for path in self.volumes},
            "WorkingDir": self.working_dir,
            "Labels": dict(self.labels),
            "StopSignal": self.stop_signal,
            "OnBuild": list(self.on_build),
            "Shell": list(self.shell),
        }
        return {key: value for key, value in members.items() if value}


def env_pairs(env: Iterable[str]) -> dict[str, str]:
    """`NAME=value` strings as a mapping; the last one of a name counts."""
    pairs: dict[str, str] = {}
    for entry in env:
        name, _, value = entry.partition("=")
        pairs[name] = value
    return pairs


def with_env(env: tuple[str, ...], changes: Mapping[str, str]) -> tuple[str, ...]:
    """`env` with variables set, each at its old place when it has one."""
    left = dict(changes)
    kept: list[str] = []
    for entry in env:
        name = entry.partition("=")[0]
        kept.append(f"{name}={left.pop(name)}" if name in left else entry)
    return (*kept, *(f"{name}={value}" for name, value in left.items()))


def _words(value: Any) -> tuple[str, ...] | None:
    return None if value is None else tuple(value)


_HEALTH_KEYS = {
    "Interval": "interval",
    "Timeout": "timeout",
    "StartPeriod": "start_period",
    "StartInterval": "start_interval",
    "Retries": "retries",
}


def _health_from(value: Any) -> HealthcheckConfig | None:
    if value is None:
        return None
    numbers = {name: int(value.get(key) or 0) for key, name in _HEALTH_KEYS.items()}
    return HealthcheckConfig(test=tuple(value.get("Test") or ()), **numbers)


def _health_to(health: HealthcheckConfig | None) -> dict[str, Any]:
    if health is None:
        return {}
    numbers = {key: getattr(health, name) for key, name in _HEALTH_KEYS.items()}
    members: dict[str, Any] = {"Test": list(health.test), **numbers}
    return {key: value for key, value in members.items() if value}
