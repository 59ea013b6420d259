"""The repositories over a real SQLite file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from shoald.metadata import HoldKind, Metadata
from shoald.metadata import events as events_module
from shoald.metadata.rows import from_ns, now, to_ns
from shoald.model.container import (
    ContainerSpec,
    ContainerState,
    Membership,
    Mount,
    MountKind,
    PortMapping,
    RestartPolicy,
    RestartPolicyName,
)
from shoald.model.event import Event
from shoald.model.network import Network
from shoald.model.snapshot import Volume
from tests.support.records import TIME, container, image, sha, snapshot


@pytest.fixture
def md(tmp_path: Path) -> Iterator[Metadata]:
    with Metadata.open(tmp_path / "meta.db") as opened:
        yield opened


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_times_survive(time: datetime) -> None:
    assert from_ns(to_ns(time)) == time


class TestContainers:
    def test_a_record_comes_back_as_it_was(self, md: Metadata) -> None:
        spec = ContainerSpec(
            image="busybox",
            entrypoint=(),
            env=("A=ä\n", "B="),
            labels={"k": "v"},
            ports=(PortMapping(80, "127.0.0.1", 8080, "udp"),),
            mounts=(Mount(MountKind.TMPFS, "/t", tmpfs_size_bytes=1 << 40),),
            restart_policy=RestartPolicy(RestartPolicyName.ON_FAILURE, 3),
            stop_timeout_s=0.5,
        )
        full = container(
            spec=spec, state=ContainerState.EXITED, started_at=TIME, finished_at=TIME, exit_code=137, oom_killed=True,
            error="x", pid=1 << 31, pid_start_time=1 << 62, ip_address="10.0.0.2", restart_count=2,
            stopped_by_user=True,
        )  # fmt: skip
        for record in (full, container("plain")):
            md.containers.insert(record)
            assert md.containers.get(record.id) == record
        assert md.containers.get("nope") is None

    def test_rows_of_older_and_newer_daemons_are_read(self, md: Metadata) -> None:
        md.containers.insert(container())
        md._db.execute(
            "UPDATE containers SET record = json_remove(json_set(record, '$.new', 1, '$.spec.new', 2), '$.spec.tty')"
        )
        assert md.containers.get(container().id) == container()

    def test_update(self, md: Metadata) -> None:
        md.containers.insert(container())
        changed = md.containers.update(container().id, state=ContainerState.RUNNING, pid=5, started_at=TIME)
        assert changed == container(state=ContainerState.RUNNING, pid=5, started_at=TIME)
        assert md.containers.get(changed.id) == changed
        assert md.containers.update(changed.id) == changed
        with pytest.raises(NotFound):
            md.containers.update("nope", pid=1)
        with pytest.raises(TypeError):
            md.containers.update(changed.id, colour="red")

    def test_names_are_unique(self, md: Metadata) -> None:
        md.containers.insert(container("web"))
        with pytest.raises(AlreadyExists) as caught:
            md.containers.insert(container("other", name="web"))
        assert caught.value.reason == "NAME_IN_USE"
        assert caught.value.metadata["container"] == container("web").id
        md.containers.insert(container("third"))
        with pytest.raises(AlreadyExists):
            md.containers.update(container("third").id, name="web")
        assert md.containers.names() == {"web", "third"}

    def test_requests_are_unique_but_for_the_empty_one(self, md: Metadata) -> None:
        md.containers.insert(container("web"))
        assert md.containers.by_request("request-web") == container("web")
        assert md.containers.by_request("other") is None
        with pytest.raises(AlreadyExists) as caught:
            md.containers.insert(container("other", request_id="request-web"))
        assert caught.value.reason == "REQUEST_EXISTS"
        assert caught.value.metadata["container"] == container("web").id
        for name in ("a1", "a2"):
            md.containers.insert(container(name, request_id=""))
        assert md.containers.by_request("") is None

    def test_find(self, md: Metadata) -> None:
        one, two = container("one", id="ab" + "0" * 62), container("two", id="ac" + "0" * 62)
        named = container("ab")
        for each in (one, two, named):
            md.containers.insert(each)
        assert md.containers.find("one") == md.containers.find("/one") == one
        assert md.containers.find(one.id) == md.containers.find("ab0") == one
        assert md.containers.find("ab") == named
        with pytest.raises(InvalidArgument) as caught:
            md.containers.find("a")
        assert caught.value.reason == "AMBIGUOUS_ID"
        for missing in ("", "zz", "ab1", "AB0", "%", "ab_", "a" * 65, "x' OR 1=1 --"):
            with pytest.raises(NotFound):
                md.containers.find(missing)

    def test_lists_are_newest_first(self, md: Metadata) -> None:
        for name, seconds in (("a1", 1.0), ("b1", 3.0), ("c1", 2.5)):
            md.containers.insert(container(name, created_at=TIME + timedelta(seconds=seconds)))
        assert [each.name for each in md.containers.list()] == ["b1", "c1", "a1"]
        assert md.containers.using_image(container().image_id) == md.containers.list()
        assert md.containers.using_image("other") == []

    def test_delete_gives_address_and_ports_back(self, md: Metadata) -> None:
        md.containers.insert(container())
        md.addresses.allocate(container().id, IPv4Network("10.0.0.0/24"))
        md.ports.reserve(container().id, "127.0.0.1", 80, "tcp", 80)
        assert md.containers.delete(container().id) is True
        assert md.containers.delete(container().id) is False
        assert (md.addresses.all(), md.ports.all()) == ({}, {})

    def test_user_namespaces(self, md: Metadata) -> None:
        with md.leases.lease("run") as lease:
            assert md.containers.allocate_userns(1000, 10, 3, lease) == 1000
            assert md.containers.allocate_userns(1000, 10, 3, lease) == 1010
            md.containers.insert(container(userns_base=1020))
            md.containers.insert(container("host"))
            with pytest.raises(ResourceExhausted) as caught:
                md.containers.allocate_userns(1000, 10, 3)
            assert caught.value.reason == "NO_FREE_USERNS"
        assert md.containers.allocate_userns(1000, 10, 3) == 1000
        md.containers.delete(container().id)
        assert md.containers.allocate_userns(1020, 10, 1) == 1020


class TestSnapshots:
    def test_the_tree(self, md: Metadata) -> None:
        for each in (snapshot("a", chain_id="ca"), snapshot("b", "a"), snapshot("c", "b", committed=False, uid_base=7)):
            md.snapshots.insert(each)
        assert [each.id for each in md.snapshots.chain("c")] == ["c", "b", "a"]
        assert md.snapshots.get("c") == snapshot("c", "b", committed=False, uid_base=7)
        assert md.snapshots.by_chain("ca") == snapshot("a", chain_id="ca")
        assert (md.snapshots.get("x"), md.snapshots.by_chain("x")) == (None, None)
        assert (md.snapshots.children("a"), md.snapshots.children("c")) == (1, 0)
        assert md.snapshots.ids() == {"a", "b", "c"} == {each.id for each in md.snapshots.all()}
        with pytest.raises(NotFound):
            md.snapshots.insert(snapshot("d", "nope"))
        with pytest.raises(FailedPrecondition):
            md.snapshots.delete("b")

    def test_commit(self, md: Metadata) -> None:
        md.snapshots.insert(snapshot("a", committed=False))
        done = snapshot("a", chain_id="c", diff_id="d", size_bytes=5)
        assert md.snapshots.commit("a", "c", "d", 5) == done == md.snapshots.get("a")
        md.snapshots.insert(snapshot("b", committed=False, size_bytes=9))
        with pytest.raises(AlreadyExists) as caught:
            md.snapshots.commit("b", "c")
        assert caught.value.reason == "CHAIN_EXISTS"
        assert md.snapshots.commit("b").size_bytes == 9
        with pytest.raises(NotFound):
            md.snapshots.commit("x")

    @pytest.mark.parametrize("state", list(ContainerState))
    def test_a_container_keeps_its_snapshot_unless_it_goes(self, md: Metadata, state: ContainerState) -> None:
        md.snapshots.insert(snapshot("a"))
        md.containers.insert(container(state=state, snapshot_id="a"))
        if state in (ContainerState.CREATING, ContainerState.REMOVING, ContainerState.DEAD):
            assert md.snapshots.delete("a") is True
            assert md.containers.get(container().id) == container(state=state)
        else:
            with pytest.raises(FailedPrecondition) as caught:
                md.snapshots.delete("a")
            assert caught.value.reason == "SNAPSHOT_IN_USE"
            assert "web" in str(caught.value)
            assert md.snapshots.ids() == {"a"}

    def test_a_container_cannot_name_a_missing_snapshot(self, md: Metadata) -> None:
        with pytest.raises(FailedPrecondition):
            md.containers.insert(container(snapshot_id="nope"))


class TestImages:
    def test_put_and_names(self, md: Metadata) -> None:
        tag, digest = "docker.io/library/app:latest", f"docker.io/library/app@{sha('app-manifest')}"
        app = image(tags=[tag], repo_digests=[digest])
        assert md.images.put(app, [sha("l1"), sha("l2")]) == app
        assert md.images.get(app.id) == app
        assert md.images.blob_digests(app.id) == [app.manifest_digest, app.id, sha("l1"), sha("l2")]
        assert md.images.layer_digests(app.id) == [sha("l1"), sha("l2")]
        assert md.images.tag("docker.io/library/app:1", app.id) is None
        assert md.images.put(image(size_bytes=5), [sha("l1")]).tags == ("docker.io/library/app:1", tag)
        assert set(md.images.blob_digests()) == {app.manifest_digest, app.id, sha("l1")}
        assert md.images.untag(tag) is True
        assert md.images.untag(tag) is False
        assert md.images.untag(digest) is False
        assert md.images.remove_repo_digest(digest) is True
        assert md.images.delete(app.id) is True
        assert md.images.delete(app.id) is False
        assert md.images.blob_digests() == []
        assert md.images.tag("docker.io/library/app:1", md.images.put(image("b"), []).id) is None

    def test_a_tag_moves(self, md: Metadata) -> None:
        one, two = md.images.put(image("one"), []), md.images.put(image("two"), [])
        md.images.tag("docker.io/library/x:latest", one.id)
        assert md.images.tag("docker.io/library/x:latest", one.id) is None
        assert md.images.tag("docker.io/library/x:latest", two.id) == one.id
        assert md.images.find("x").id == two.id
        assert md.images.get(one.id) == one
        for call in (md.images.tag, md.images.add_repo_digest):
            with pytest.raises(NotFound):
                call("docker.io/library/x:latest", sha("nope"))

    def test_find(self, md: Metadata) -> None:
        one = md.images.put(image("one", id="sha256:ab" + "0" * 62, tags=["docker.io/library/busybox:latest"]), [])
        two = md.images.put(image("two", id="sha256:ac" + "0" * 62, tags=["docker.io/library/ab:latest"]), [])
        for name in (
            "busybox",
            "docker.io/busybox:latest",
            one.id,
            one.id[7:],
            "ab0",
            "sha256:ab",
            one.manifest_digest,
        ):
            assert md.images.find(name) == one, name
        assert md.images.find("ab") == two
        with pytest.raises(InvalidArgument) as caught:
            md.images.find("a")
        assert caught.value.reason == "AMBIGUOUS_ID"
        for missing in ("", "nope", "busybox:1", "ab1", "UPPER", "%", sha("no"), "x" * 300, "busy box"):
            with pytest.raises(NotFound) as gone:
                md.images.find(missing)
            assert gone.value.reason == "IMAGE_NOT_FOUND"
        digest = f"docker.io/library/busybox@{one.manifest_digest}"
        md.images.add_repo_digest(digest, one.id)
        assert md.images.find(f"busybox@{one.manifest_digest}").id == one.id
        assert md.images.find(f"busybox:1@{one.manifest_digest}").id == one.id
        assert md.images.find("busybox").repo_digests == (digest,)

    def test_list_is_newest_first_with_names(self, md: Metadata) -> None:
        old = md.images.put(image("old", tags=["r.io/a:1", "r.io/b:1"]), [])
        new = md.images.put(image("new", created_at=TIME + timedelta(seconds=1)), [])
        assert md.images.list() == [new, old]


SUBNET = IPv4Network("10.88.0.0/29")


class TestAddressesAndPorts:
    def test_the_lowest_free_address(self, md: Metadata) -> None:
        given_out = [md.addresses.allocate(f"c{n}", SUBNET) for n in range(5)]
        assert given_out == [IPv4Address(f"10.88.0.{n}") for n in (2, 3, 4, 5, 6)]
        with pytest.raises(ResourceExhausted) as caught:
            md.addresses.allocate("c9", SUBNET)
        assert caught.value.reason == "NO_FREE_ADDRESS"
        assert md.addresses.allocate("c1", SUBNET) == md.addresses.get("c1") == IPv4Address("10.88.0.3")
        assert md.addresses.get("c1", IPv4Network("10.0.0.0/8")) is None
        md.addresses.release("c1")
        md.addresses.release("c1")
        assert md.addresses.get("c1") is None
        assert md.addresses.allocate("c9", SUBNET) == IPv4Address("10.88.0.3")
        assert md.addresses.all()[IPv4Address("10.88.0.3")] == "c9"

    @pytest.mark.parametrize("subnet", ["10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32"])
    def test_tiny_subnets(self, md: Metadata, subnet: str) -> None:
        room = max(0, IPv4Network(subnet).num_addresses - 3)
        for number in range(room):
            md.addresses.allocate(f"c{number}", IPv4Network(subnet))
        with pytest.raises(ResourceExhausted):
            md.addresses.allocate("more", IPv4Network(subnet))

    @settings(max_examples=25, deadline=None)
    @given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 6)), max_size=30))
    def test_addresses_are_unique_whatever_happens(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int]]
    ) -> None:
        with Metadata.open(tmp_path_factory.mktemp("md") / "meta.db") as md:
            held: dict[str, IPv4Address] = {}
            for take, number in steps:
                owner = f"c{number}"
                if not take:
                    md.addresses.release(owner)
                    held.pop(owner, None)
                elif owner in held or len(held) < 5:
                    held[owner] = md.addresses.allocate(owner, SUBNET)
                assert md.addresses.all() == {address: owner for owner, address in held.items()}
                assert len(set(held.values())) == len(held)

    def test_addresses_that_are_asked_for(self, md: Metadata) -> None:
        subnet, part = IPv4Network("10.88.1.0/24"), IPv4Network("10.88.1.128/30")
        wanted = IPv4Address("10.88.1.9")
        assert md.addresses.allocate("c1", subnet, wanted=wanted) == wanted
        with pytest.raises(AlreadyExists) as caught:
            md.addresses.allocate("c2", subnet, wanted=wanted)
        assert (caught.value.reason, caught.value.metadata["container"]) == ("ADDRESS_IN_USE", "c1")
        kept = [IPv4Address("10.88.1.2")]
        assert md.addresses.allocate("c2", subnet, avoid=kept) == IPv4Address("10.88.1.3")
        found = [md.addresses.allocate(f"r{n}", subnet, within=part) for n in range(4)]
        assert [str(address) for address in found] == [f"10.88.1.{n}" for n in (128, 129, 130, 131)]
        with pytest.raises(ResourceExhausted):
            md.addresses.allocate("r9", subnet, within=part)
        assert md.addresses.owners(subnet)[:2] == ["c2", "c1"]

    def test_ipv6_addresses(self, md: Metadata) -> None:
        subnet = IPv6Network("fd00:1::/64")
        md.addresses6.allocate("a", subnet, wanted=IPv6Address("fd00:1::3"))
        found = [md.addresses6.allocate(owner, subnet) for owner in ("b", "c", "b")]
        assert [str(address) for address in found] == ["fd00:1::2", "fd00:1::4", "fd00:1::2"]
        assert md.addresses6.owners(subnet) == ["b", "a", "c"]
        md.addresses6.release("b", IPv6Network("fd00:2::/64"))
        md.addresses6.release("b", subnet)
        assert md.addresses6.get("b", subnet) is None
        assert md.addresses6.all() == {IPv6Address("fd00:1::3"): "a", IPv6Address("fd00:1::4"): "c"}

    def test_networks_and_memberships(self, md: Metadata) -> None:
        network = Network("a" * 64, "net", now(), "b", ("10.5.0.0/24",), ("10.5.0.1",), labels={"k": "v"})
        md.networks.insert(network)
        assert (md.networks.get(network.id), md.networks.list()) == (network, [network])
        with pytest.raises(AlreadyExists):
            md.networks.insert(msgspec.structs.replace(network, id="b" * 64))
        web = container("web")
        md.containers.insert(web)
        for each in (Membership("bridge"), Membership(network.id, "10.5.0.9", aliases=("x",)), Membership("bridge")):
            md.memberships.put(web.id, each)
        assert [each.network for each in md.memberships.of(web.id)] == ["bridge", network.id]
        assert md.memberships.members(network.id)[web.id].aliases == ("x",)
        assert md.memberships.remove(web.id, "bridge")
        assert not md.memberships.remove(web.id, "bridge")
        md.containers.delete(web.id)
        assert md.memberships.all() == {}
        assert md.networks.delete(network.id)

    @pytest.mark.parametrize(
        ("first", "second", "conflict"),
        [
            (("127.0.0.1", 80, "tcp"), ("127.0.0.1", 80, "tcp"), True),
            (("127.0.0.1", 80, "tcp"), ("127.0.0.2", 80, "tcp"), False),
            (("127.0.0.1", 80, "tcp"), ("127.0.0.1", 81, "tcp"), False),
            (("127.0.0.1", 80, "tcp"), ("127.0.0.1", 80, "udp"), False),
            (("0.0.0.0", 80, "tcp"), ("127.0.0.1", 80, "tcp"), True),
            (("127.0.0.1", 80, "udp"), ("0.0.0.0", 80, "udp"), True),
            (("::", 80, "tcp"), ("0.0.0.0", 80, "tcp"), False),
            (("::", 80, "tcp"), ("fd00::1", 80, "tcp"), True),
            (("::1", 80, "tcp"), ("127.0.0.1", 80, "tcp"), False),
        ],
    )
    def test_conflicts(
        self, md: Metadata, first: tuple[str, int, str], second: tuple[str, int, str], conflict: bool
    ) -> None:
        md.containers.insert(container("web"))
        md.ports.reserve(container("web").id, *first, 8080)
        if conflict:
            with pytest.raises(AlreadyExists) as caught:
                md.ports.reserve("other", *second, 8080)
            assert caught.value.reason == "PORT_IN_USE"
            assert "by container web" in str(caught.value)
            assert md.ports.of("other") == []
        else:
            md.ports.reserve("other", *second, 8080)
            assert md.ports.of("other") == [PortMapping(8080, *second)]

    def test_the_same_again_and_release(self, md: Metadata) -> None:
        for _ in range(2):
            md.ports.reserve("c", "127.0.0.1", 80, "tcp", 8080)
        with pytest.raises(AlreadyExists):
            md.ports.reserve("c", "127.0.0.1", 80, "tcp", 9090)
        md.ports.reserve("c", "127.0.0.1", 81, "tcp", 8080)
        assert md.ports.all() == {"c": [PortMapping(8080, "127.0.0.1", 80), PortMapping(8080, "127.0.0.1", 81)]}
        md.ports.release("c")
        md.ports.release("c")
        assert md.ports.all() == {}


class TestTheRest:
    def test_leases(self, md: Metadata) -> None:
        with md.leases.lease("pull") as lease, md.leases.lease("build", ttl=-1) as old:
            for kind, key in ((HoldKind.BLOB, "d1"), ("blob", "d1"), (HoldKind.SNAPSHOT, "s1")):
                md.leases.hold(lease, kind, key)
            md.leases.hold(old, "blob", "d2")
            assert md.leases.held(HoldKind.BLOB) == {"d1", "d2"}
            assert md.leases.held("snapshot") == {"s1"}
            assert md.leases.expired() == [old]
            with pytest.raises(ValueError, match="nonsense"):
                md.leases.hold(lease, "nonsense", "x")
        assert md.leases.held("blob") == set()
        md.leases.release(lease)
        with pytest.raises(NotFound):
            md.leases.hold(lease, "blob", "d1")

    def test_cache(self, md: Metadata) -> None:
        md.snapshots.insert(snapshot("s"))
        put = md.cache.put("k", "s", description="RUN x", diff_id="d", blob_digest="b", data="{}", size_bytes=3)
        assert md.cache.get("k") == put
        md.cache.put("empty", None)
        md.cache.touch("k")
        touched = md.cache.get("k")
        assert touched is not None
        assert touched.use_count == 1
        assert touched.last_used_at >= put.last_used_at
        assert [each.key for each in md.cache.all()] == ["empty", "k"]
        md.snapshots.delete("s")
        assert [each.key for each in md.cache.all()] == ["empty"]
        assert md.cache.delete("empty") is True
        assert md.cache.delete("empty") is False
        assert md.cache.get("empty") is None

    def test_volumes(self, md: Metadata) -> None:
        volume = Volume("data", TIME, True)
        md.volumes.insert(volume)
        with pytest.raises(AlreadyExists):
            md.volumes.insert(volume)
        assert md.volumes.list() == [volume] == [md.volumes.get("data")]
        md.containers.insert(
            container(mounts=(Mount(MountKind.VOLUME, "/a", "data"), Mount(MountKind.VOLUME, "/b", "data")))
        )
        md.containers.insert(container("other", mounts=(Mount(MountKind.BIND, "/a", "data"),)))
        assert md.volumes.users("data") == [container().id]
        assert md.volumes.delete("data") is True
        assert md.volumes.delete("data") is False
        assert md.volumes.get("data") is None

    def test_blobs(self, md: Metadata) -> None:
        md.blobs.add("d", 5, "t")
        md.blobs.add("d", 6, "t")
        blob = md.blobs.get("d")
        assert blob is not None
        assert blob.size_bytes == 6
        assert md.blobs.all() == [blob]
        assert (md.blobs.delete("d"), md.blobs.delete("d"), md.blobs.get("d")) == (True, False, None)

    def test_events(self, md: Metadata, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(events_module, "KEPT", 5)
        assert (md.events.first_cursor(), md.events.last_cursor()) == (0, 0)
        event = Event("container", "start", "c1", TIME, {"name": "web"})
        stored = [md.events.append(event) for _ in range(8)]
        assert [each.cursor for each in stored] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert md.events.after(0) == stored[3:]
        assert md.events.after(6, limit=1) == [msgspec.structs.replace(event, cursor=7)]
        assert (md.events.first_cursor(), md.events.last_cursor()) == (4, 8)
        md._db.execute("DELETE FROM events")
        assert md.events.append(event).cursor == 9
