"""A container as `inspect` shows it: Docker's names and shape, so that docker users' templates work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shoalctl.commands.container_rows import HEALTH, STATES, stamp
from shoalctl.render.template import FreeMap

if TYPE_CHECKING:
    from shoal.v1 import container_pb2

_NO_TIME = "0001-01-01T00:00:00Z"
_KINDS = ("", "bind", "volume", "tmpfs", "content", "secret")
_RESTARTS = ("no", "no", "on-failure", "always", "unless-stopped")


def container_view(host: str, answer: container_pb2.ContainerServiceInspectResponse) -> dict[str, Any]:
    """The object; `Host` is shoal's own addition."""
    item, spec = answer.container, answer.spec
    command = list(item.command)
    return {
        "Host": host,
        "Id": item.id,
        "Created": stamp(item.created_at),
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": _state(item, answer.health),
        "Image": item.image_id,
        "LogPath": answer.log_path,
        "Name": f"/{item.name}",
        "RestartCount": item.restart_count,
        "Runtime": answer.runtime,
        "UsernsBase": answer.userns_base,
        "UsernsSize": answer.userns_size,
        "HostConfig": _host_config(spec),
        "Mounts": [
            {
                "Type": _KINDS[mount.kind],
                "Name": mount.name,
                "Source": mount.source,
                "Destination": mount.target,
                "RW": not mount.read_only,
            }
            for mount in answer.mounts
        ],
        "Config": _config(item, spec),
        "NetworkSettings": {
            "IPAddress": item.ip_address,
            "Ports": _ports(item.ports),
            "Networks": FreeMap((each.network, _endpoint(each)) for each in answer.networks),
        },
    }


def _endpoint(each: container_pb2.ContainerServiceInspectResponse.EndpointState) -> dict[str, Any]:
    return {
        "IPAddress": each.ip_address,
        "Gateway": each.gateway,
        "GlobalIPv6Address": each.ip6_address,
        "MacAddress": each.mac_address,
        "Aliases": list(each.aliases),
    }


def _state(
    item: container_pb2.Container, health: container_pb2.ContainerServiceInspectResponse.HealthState
) -> dict[str, Any]:
    status = STATES[item.state]
    checked = {"Health": _health(health)} if health.status else {}
    return {
        "Status": status,
        "Running": status in ("running", "paused"),
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": item.oom_killed,
        "Dead": status == "dead",
        "Pid": item.pid,
        "ExitCode": item.exit_code,
        "Error": item.error,
        "StartedAt": stamp(item.started_at) if item.HasField("started_at") else _NO_TIME,
        "FinishedAt": stamp(item.finished_at) if item.HasField("finished_at") else _NO_TIME,
        **checked,
    }


def _health(health: container_pb2.ContainerServiceInspectResponse.HealthState) -> dict[str, Any]:
    return {
        "Status": HEALTH[health.status],
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": stamp(probe.start),
                "End": stamp(probe.end),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            }
            for probe in health.log
        ],
    }


def _health_check(check: container_pb2.HealthCheck) -> dict[str, Any]:
    times = {
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
    }
    spans = {name: span.ToNanoseconds() for name, span in times.items()}
    return {"Test": list(check.test), **spans, "Retries": check.retries}


def _config(item: container_pb2.Container, spec: container_pb2.ContainerSpec) -> dict[str, Any]:
    return {
        "Hostname": spec.hostname,
        "User": spec.user,
        "Tty": spec.tty,
        "OpenStdin": spec.stdin_open,
        "Env": list(spec.env),
        "Cmd": list(spec.command),
        "Image": item.image,
        "WorkingDir": spec.working_dir,
        "Entrypoint": list(spec.entrypoint),
        "Labels": FreeMap(sorted(item.labels.items())),
        "StopSignal": spec.stop_signal,
        "StopTimeout": spec.stop_timeout.seconds if spec.HasField("stop_timeout") else None,
        "ExposedPorts": {_key(port): {} for port in spec.ports},
        **({"Healthcheck": _health_check(spec.health_check)} if spec.health_check.test else {}),
    }


def _host_config(spec: container_pb2.ContainerSpec) -> dict[str, Any]:
    return {
        "LogConfig": {"Type": spec.log.driver or "local", "Config": FreeMap(spec.log.options)},
        "NetworkMode": spec.network or "bridge",
        "PortBindings": _ports(spec.ports),
        "RestartPolicy": {
            "Name": _RESTARTS[spec.restart_policy.name],
            "MaximumRetryCount": spec.restart_policy.max_retries,
        },
        "AutoRemove": spec.auto_remove,
        "ReadonlyRootfs": spec.read_only,
        "Init": spec.init,
        "UsernsMode": spec.userns,
        "Memory": spec.resources.memory_bytes,
        "NanoCpus": spec.resources.nano_cpus,
        "PidsLimit": spec.resources.pids_limit,
        "Binds": [
            f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}"
            for mount in spec.mounts
            if mount.kind in (mount.KIND_BIND, mount.KIND_VOLUME)
        ],
        "Tmpfs": {mount.target: _tmpfs(mount) for mount in spec.mounts if mount.kind == mount.KIND_TMPFS},
    }


def _tmpfs(mount: container_pb2.Mount) -> str:
    options = [f"size={mount.tmpfs_size_bytes}"] if mount.tmpfs_size_bytes else []
    options += [f"mode={mount.tmpfs_mode:o}"] if mount.tmpfs_mode else []
    return ",".join([*options, "ro"] if mount.read_only else options)


def _ports(ports: Any) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = FreeMap()
    for port in ports:
        found.setdefault(_key(port), []).append({"HostIp": port.host_ip, "HostPort": str(port.host_port)})
    return found


def _key(port: container_pb2.PortMapping) -> str:
    return f"{port.container_port}/{'udp' if port.protocol == port.PROTOCOL_UDP else 'tcp'}"
