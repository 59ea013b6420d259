"""What a daemon's containers have on the host, and whether it is exactly what they should have.

    assert not disagreements(settings, md)

reads the database, the run directory, mounts, monitors, cgroups, interfaces and nft elements, and names every
difference.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoald.host import cgroups, freezer


@dataclass(frozen=True)
class Host:
    """Where a daemon keeps what."""

    root: Path
    run_dir: Path
    nft_table: str
    bridge: str
    cgroup_parent: str

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Host:
        """From the daemon's configuration as a document."""
        network = settings["network"]
        return cls(
            Path(settings["root"]),
            Path(settings["run_dir"]),
            network["nft_table"],
            network["bridge"],
            settings["runtime"]["cgroup_parent"],
        )

    def rows(self, query: str) -> list[sqlite3.Row]:
        """Of its database, read beside the daemon."""
        with sqlite3.connect(f"file:{self.root}/meta.db?mode=ro", uri=True, timeout=10) as db:
            db.row_factory = sqlite3.Row
            found = db.execute(query).fetchall()
        db.close()
        return found

    def containers(self) -> dict[str, dict[str, Any]]:
        """Records by id."""
        return {row["id"]: json.loads(row["record"]) for row in self.rows("SELECT id, record FROM containers")}

    def monitors(self) -> dict[str, int]:
        """Container id -> pid of its conmon."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if words[0].endswith("conmon") and str(self.run_dir / "exits") in words and state != "Z":
                found[words[words.index("-c") + 1]] = int(pid)
        return found

    def mounts(self) -> list[str]:
        """Mount points below its directories."""
        places = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        return [place for place in places if place.startswith((f"{self.root}/", f"{self.run_dir}/"))]

    def published(self) -> set[tuple[str, str, int, str, int]]:
        """(protocol, host address, host port, container address, container port) in the nft map."""
        listed = subprocess.run(
            ["nft", "-j", "list", "map", "ip", self.nft_table, "published"], capture_output=True, check=True
        )
        elements = []
        for entry in json.loads(listed.stdout)["nftables"]:
            elements += entry.get("map", {}).get("elem", [])
        return {
            (key["concat"][0], key["concat"][1], key["concat"][2], value["concat"][0], value["concat"][1])
            for key, value in elements
        }

    def cgroups(self) -> set[str]:
        """Names below its parent cgroup, of all hierarchies."""
        return {
            path.name
            for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir())
            for path in (top / self.cgroup_parent.lstrip("/")).glob("*/")
        }


def disagreements(host: Host) -> list[str]:
    """Every difference between rows and host. Empty when the daemon is idle and all is well."""
    containers = host.containers()
    running = {each: record for each, record in containers.items() if record["state"] in ("running", "paused")}
    return [
        *(f"{each[:12]} is in state {record['state']}" for each, record in containers.items() if _passing(record)),
        *_differ("monitors", set(host.monitors()), set(running)),
        *_differ("bundles", {n for n in os.listdir(host.run_dir) if len(n) == 64}, set(running)),
        *_differ("runtime states", set(os.listdir(host.run_dir / "oci")), set(running)),
        *_differ("exit files", set(os.listdir(host.run_dir / "exits")), set()),
        *_differ("cgroups", {name for name in host.cgroups() if len(name) == 64}, set(running)),
        *_differ("directories", set(os.listdir(host.root / "containers")), set(containers)),
        *_processes(running),
        *_frozen(host, running),
        *_mounts(host, running),
        *_layers(host, containers),
        *_network(host, running),
    ]


def _passing(record: dict[str, Any]) -> bool:
    return record["state"] in ("creating", "removing", "dead")


def _differ(what: str, found: set[str], wanted: set[str]) -> Iterator[str]:
    yield from (f"{what}: {name} is too much" for name in sorted(found - wanted))
    yield from (f"{what}: {name} is missing" for name in sorted(wanted - found))


def _processes(running: dict[str, dict[str, Any]]) -> Iterator[str]:
    for each, record in running.items():
        try:
            fields = Path(f"/proc/{record['pid']}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            yield f"{each[:12]}: process {record['pid']} does not exist"
            continue
        if int(fields[19]) != record["pid_start_time"] or fields[0] == "Z":
            yield f"{each[:12]}: process {record['pid']} is another"


def _frozen(host: Host, running: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Paused is what the row says is paused."""
    found = cgroups.detect()
    for each, record in running.items():
        frozen = freezer.is_frozen(found, f"{host.cgroup_parent}/{each}")
        if frozen != (record["state"] == "paused"):
            yield f"{each[:12]} is {record['state']} and {'frozen' if frozen else 'not frozen'}"


def _mounts(host: Host, running: dict[str, dict[str, Any]]) -> Iterator[str]:
    roots = {str(host.run_dir / each / "rootfs") for each in running}
    extra = {
        str(host.run_dir / each / "mounts" / f"{number:04d}")
        for each, record in running.items()
        for number, mount in enumerate(record["spec"].get("mounts", ()))
        if mount["kind"] != "tmpfs"
    }
    extra |= {
        str(host.run_dir / each / "mounts" / name)
        for each, record in running.items()
        for name, there in (
            ("shm", record["spec"].get("ipc_mode") == "shareable"),
            ("devices", record["userns_base"] and (record["spec"].get("devices") or record["spec"].get("cdi_devices"))),
        )
        if there
    }
    # The daemon's own, once secrets were given.
    found = [place for place in host.mounts() if place != str(host.run_dir / "secrets")]
    yield from _differ("mounts", set(found), roots | extra)
    yield from (f"mounted twice: {place}" for place in set(found) if found.count(place) > 1)


def _layers(host: Host, containers: dict[str, dict[str, Any]]) -> Iterator[str]:
    rows = host.rows("SELECT id, committed FROM snapshots")
    active = {row["id"] for row in rows if not row["committed"]}
    yield from _differ("writable layers", active, {record["snapshot_id"] for record in containers.values()})
    names = {name for name in os.listdir(host.root / "snapshots") if name != ".empty"}
    yield from _differ("layer directories", names, {row["id"] for row in rows})
    volumes = {m["source"] for c in containers.values() for m in c["spec"].get("mounts", ()) if m.get("anonymous")}
    anonymous = {row["name"] for row in host.rows("SELECT name FROM volumes WHERE anonymous")}
    yield from (f"anonymous volume {name} is too much" for name in sorted(anonymous - volumes))


def _network(host: Host, running: dict[str, dict[str, Any]]) -> Iterator[str]:
    joined = host.rows("SELECT container_id, network FROM memberships")
    wanted_in = {(row["container_id"], row["network"]) for row in joined if row["container_id"] in running}
    networks = {row["id"]: json.loads(row["record"]) for row in host.rows("SELECT id, record FROM networks")}
    subnets = {network["subnets"][0]: id_ for id_, network in networks.items()}
    addresses = {
        (row["owner"], subnets.get(row["subnet"], "bridge")) for row in host.rows("SELECT owner, subnet FROM addresses")
    }
    yield from _differ("addresses", set(map(str, addresses)), set(map(str, wanted_in)))
    for id_, bridge in {"bridge": host.bridge, **{id_: each["bridge"] for id_, each in networks.items()}}.items():
        ends = {_end(owner, network) for owner, network in wanted_in if network == id_}
        yield from _differ(f"interfaces of {bridge}", set(os.listdir(f"/sys/class/net/{bridge}/brif")), ends)
    served = {f"{id_}%int" if networks[id_].get("internal") else id_ for _, id_ in wanted_in if id_ in networks}
    files = set(os.listdir(host.run_dir / "dns")) if (host.run_dir / "dns").exists() else set()
    yield from _differ("files of the name server", files - {"aardvark.pid"}, served)
    published = {
        (port.get("protocol", "tcp"), port["host_ip"], port["host_port"], record["ip_address"], port["container_port"])
        for record in running.values()
        for port in record.get("ports", ())
    }
    rows = {(row["owner"], row["port"]) for row in host.rows("SELECT owner, port FROM ports")}
    wanted = {(each, port["host_port"]) for each, record in running.items() for port in record.get("ports", ())}
    yield from _differ("ports", set(map(str, rows)), set(map(str, wanted)))
    yield from _differ("nft elements", set(map(str, host.published())), set(map(str, published)))


def _end(owner: str, network: str) -> str:
    """The host's end of a container's interface."""
    if network == "bridge":
        return f"sh{owner[:12]}"
    return "sh" + hashlib.sha256(f"{network} {owner}".encode()).hexdigest()[:12]
