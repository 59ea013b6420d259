"""The client's configuration: reading, choosing hosts, and changing the file without harm."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from shoalctl.address import Address
from shoalctl.config_file import config_path
from shoalctl.inventory import Inventory
from shoalctl.invocation import Invocation
from shoalctl.label_selector import LabelSelector

TEXT = """\
# my fleet
default = ["web1"]  # the usual one

[hosts.web1]
address = "10.0.0.1:7443"  # rack 4
ca = "pki/ca.pem"
cert = "pki/me.pem"
key = "pki/me-key.pem"
labels = {role = "web", zone = "a"}

# behind the firewall
[hosts.web2]
address = "web2.example.com"
ca = "/etc/shoal/ca.pem"
server_name = "web2"
labels = {role = "web", zone = "b"}

[hosts."db.1"]
address = "unix:///run/shoal/shoald.sock"

[groups]
web = ["web1", "web2"]  # all of them
mixed = ["db.1", "web1"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config.toml"
    file.write_text(TEXT)
    return file


def names(inventory: Inventory, *args: object, **kwargs: object) -> list[str]:
    return [host.name for host in inventory.select(*args, **kwargs)]  # type: ignore[arg-type]


def test_load(path: Path) -> None:
    inventory = Inventory.load(path)
    web1, web2, db = inventory.hosts.values()
    assert (web1.name, web1.address, web1.target, web1.tls_name) == (
        "web1",
        "10.0.0.1:7443",
        "10.0.0.1:7443",
        "10.0.0.1",
    )
    assert (web1.ca, web1.key) == (path.parent / "pki/ca.pem", path.parent / "pki/me-key.pem")
    assert (web2.address, web2.tls_name, web2.cert) == ("web2.example.com:7443", "web2", None)
    assert str(web2.ca) == "/etc/shoal/ca.pem"
    assert (db.name, db.is_socket, db.target) == ("db.1", True, "unix:/run/shoal/shoald.sock")
    assert web1.labels == {"role": "web", "zone": "a"}
    assert inventory.groups == {"web": ("web1", "web2"), "mixed": ("db.1", "web1")}
    assert inventory.default == ("web1",)
    assert len({web1, web2, db}) == 3


def test_no_file_is_an_empty_inventory(tmp_path: Path) -> None:
    inventory = Inventory.load(tmp_path / "none.toml")
    assert not inventory.hosts
    with pytest.raises(InvalidArgument) as caught:
        inventory.select()
    assert (caught.value.reason, caught.value.hint) == ("NO_TARGET", "add one: shoal host add NAME ADDRESS")
    with pytest.raises(InvalidArgument):
        inventory.select(all_hosts=True)


def test_select(path: Path) -> None:
    inventory = Inventory.load(path)
    assert names(inventory) == ["web1"]
    assert names(inventory, ["web2", "web1", "web2"]) == ["web2", "web1"]
    assert names(inventory, ["web2,db.1", " web1 "]) == ["web2", "db.1", "web1"]
    assert names(inventory, [], ["mixed"]) == ["db.1", "web1"]
    assert names(inventory, ["web2"], ["mixed", "web"]) == ["web2", "db.1", "web1"]
    assert names(inventory, ["@web"]) == ["web1", "web2"]
    assert names(inventory, [], ["@web"]) == ["web1", "web2"]
    assert names(inventory, [], [], True) == ["web1", "web2", "db.1"]
    assert names(inventory, default=["@mixed"]) == ["db.1", "web1"]


def test_select_by_label(path: Path) -> None:
    inventory = Inventory.load(path)
    assert names(inventory, labels=["role=web"]) == ["web1", "web2"]
    assert names(inventory, labels=["role=web,zone=b"]) == ["web2"]
    assert names(inventory, labels=["role!=web"]) == ["db.1"]
    assert names(inventory, labels={"role": "web", "zone": "b"}) == ["web2"]
    assert names(inventory, labels=["role"]) == ["web1", "web2"]
    assert names(inventory, [], ["mixed"], labels=["role=web"]) == ["web1"]
    with pytest.raises(NotFound) as caught:
        inventory.select(labels=["role=db"])
    assert caught.value.reason == "NO_HOST_MATCHES"
    with pytest.raises(InvalidArgument) as bad:
        inventory.select(labels=["=x"])
    assert bad.value.reason == "INVALID_SELECTOR"


@pytest.mark.parametrize("text", ["a=b", "a!=b", "a", "a=", "a=b=c"])
def test_selectors_round_trip(text: str) -> None:
    assert str(LabelSelector.parse(text)) == text


def test_unknown_names(path: Path) -> None:
    inventory = Inventory.load(path)
    with pytest.raises(NotFound) as host:
        inventory.select(["wbe1"])
    assert host.value.reason == "UNKNOWN_HOST"
    assert host.value.message.startswith("unknown host 'wbe1'; did you mean web1")
    assert "shoal host list" in (host.value.hint or "")
    with pytest.raises(NotFound) as group:
        inventory.select([], ["wed"])
    assert (group.value.reason, group.value.message) == ("UNKNOWN_GROUP", "unknown group 'wed'; did you mean web?")
    with pytest.raises(NotFound) as far:
        inventory.select(["zzz"])
    assert far.value.message == "unknown host 'zzz'"


def test_a_group_with_a_stranger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[hosts.a]\naddress = "a"\n[groups]\ng = ["a", "gone"]\n')
    inventory = Inventory.load(path)
    assert names(inventory, ["a"]) == ["a"]
    with pytest.raises(NotFound, match="unknown host 'gone' in group 'g'"):
        inventory.select([], ["g"])


def test_default_target(path: Path) -> None:
    path.write_text(TEXT.replace('default = ["web1"]  # the usual one', ""))
    with pytest.raises(InvalidArgument) as caught:
        Inventory.load(path).select()
    assert caught.value.reason == "NO_TARGET"
    assert "-H" in (caught.value.hint or "")
    path.write_text('[hosts.only]\naddress = "a"\n')
    assert names(Inventory.load(path)) == ["only"]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('[hosts.web1]\naddress = "a\n', 2, "Illegal character"),
        ("default = [\n", 1, "Invalid value|Unclosed"),
        ("[hosts.web1]\naddress = 1\n", 1, "address must be a string"),
        ('x = 1\n[hosts.a]\naddress = "a"\n', 1, "unknown key 'x'"),
        ('\n[hosts.a]\nadress = "a"\n', 2, "unknown key 'adress'"),
        ("\n\n[hosts.a]\n", 3, "address is missing"),
        ('[hosts.a]\naddress = "a"\n[hosts."B c"]\naddress = "b"\n', 3, "invalid name 'B c'"),
        ('[hosts.web.1]\naddress = "a"\n', None, "unknown key '1'.*quotes"),
        ('[hosts.a]\naddress = "https://a"\n', 1, "invalid address 'https://a'"),
        ('[hosts.a]\naddress = "a"\nlabels = "x"\n', 1, "labels must be a table"),
        ('[hosts.a]\naddress = "a"\nlabels = {x = 1}\n', 1, "invalid label 'x'"),
        ('[hosts]\na = "a"\n', 2, "must be a table"),
        ("hosts = 1\n", 1, "hosts must be a table"),
        ('\ndefault = "web1"\n', 2, "default must be a list"),
        ('[groups]\n\nweb = "web1"\n', 3, "group 'web' must be a list"),
        ("[groups]\nweb = [1]\n", 2, "group 'web' must be a list"),
    ],
)
def test_mistakes_are_located(tmp_path: Path, text: str, line: int | None, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InvalidArgument, match=message) as caught:
        Inventory.load(path)
    assert caught.value.reason == "INVALID_CONFIG"
    assert caught.value.message.startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        Inventory.load(tmp_path)
    assert caught.value.reason == "CONFIG_UNREADABLE"
    path = tmp_path / "config.toml"
    path.write_bytes(b"# ok\n\xff\xfe")
    with pytest.raises(InvalidArgument, match=":2: not UTF-8"):
        Inventory.load(path)
    path.write_bytes(b"\xef\xbb\xbf[hosts.a]\r\naddress = 'a'\r\n")
    assert names(Inventory.load(path)) == ["a"]


def test_add_keeps_comments_and_writes_portable_paths(path: Path) -> None:
    inventory = Inventory.load(path)
    directory = path.parent
    inventory.add_host(
        "db.2", "[::1]:9", ca=directory / "pki/ca.pem", cert="/x/me.pem", key=directory / "k.pem", labels={"role": "db"}
    )
    inventory.set_group("dbs", ["db.1", "db.2"])
    inventory.set_default(["@dbs"])
    inventory.save()
    text = path.read_text()
    for kept in ("# my fleet", "# the usual one", "# rack 4", "# behind the firewall", "# all of them"):
        assert kept in text
    assert 'ca = "pki/ca.pem"' in text.partition('"db.2"')[2]
    again = Inventory.load(path)
    assert again.hosts == inventory.hosts
    assert again.groups == inventory.groups
    assert again.default == ("@dbs",)
    assert str(again.host("db.2").cert) == "/x/me.pem"


def test_first_save_makes_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "config.toml"
    inventory = Inventory.load(path)
    inventory.add_host("web1", "10.0.0.1", server_name="w", labels={"a": "b"})
    inventory.add_host("web2", "10.0.0.2")
    inventory.set_default(["web1"])
    inventory.set_group("web", ["web1", "web2"])
    inventory.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    again = Inventory.load(path)
    assert (again.hosts, again.groups, again.default) == (inventory.hosts, inventory.groups, ("web1",))
    assert [file.name for file in path.parent.iterdir()] == ["config.toml"]


def test_replace(path: Path) -> None:
    inventory = Inventory.load(path)
    with pytest.raises(AlreadyExists) as caught:
        inventory.add_host("web1", "10.9.9.9")
    assert caught.value.reason == "HOST_EXISTS"
    inventory.add_host("web1", "10.9.9.9", replace=True)
    inventory.save()
    host = Inventory.load(path).host("web1")
    assert (host.address, host.ca, host.labels) == ("10.9.9.9:7443", None, {})
    assert "# rack 4" in path.read_text()


def test_remove_everywhere(path: Path) -> None:
    inventory = Inventory.load(path)
    inventory.set_group("solo", ["web1"])
    inventory.set_default(["@solo", "web1", "web2"])
    inventory.remove_host("web1")
    inventory.save()
    again = Inventory.load(path)
    for each in (inventory, again):
        assert list(each.hosts) == ["web2", "db.1"]
        assert each.groups == {"web": ("web2",), "mixed": ("db.1",)}
        assert each.default == ("web2",)
    with pytest.raises(NotFound):
        again.remove_host("web1")


def test_remove_ignores_what_it_does_not_touch(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('default = ["gone", "a"]\n[hosts.a]\naddress = "a"\n[groups]\ng = ["a", "gone"]\n')
    inventory = Inventory.load(path)
    inventory.remove_host("a")
    inventory.save()
    again = Inventory.load(path)
    assert (again.groups, again.default, dict(again.hosts)) == ({"g": ("gone",)}, ("gone",), {})


def test_two_writers_lose_nothing(path: Path) -> None:
    one, two = Inventory.load(path), Inventory.load(path)
    one.add_host("one", "1.1.1.1")
    two.remove_host("web2")
    one.save()
    two.save()
    assert list(Inventory.load(path).hosts) == ["web1", "db.1", "one"]


def test_a_broken_file_is_not_overwritten(path: Path) -> None:
    inventory = Inventory.load(path)
    inventory.add_host("one", "1.1.1.1")
    path.write_text("[hosts.x]\n")
    with pytest.raises(InvalidArgument):
        inventory.save()
    assert path.read_text() == "[hosts.x]\n"


def test_links_and_modes_stay(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.toml"
    link.symlink_to(path)
    path.chmod(0o640)
    inventory = Inventory.load(link)
    inventory.add_host("one", "1.1.1.1", ca=tmp_path / "ca.pem")
    inventory.save()
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert Inventory.load(link).host("one").ca == tmp_path / "ca.pem"


def test_changes_are_checked(path: Path) -> None:
    inventory = Inventory.load(path)
    for name in ("", "Web", "a b", "-a", "@web", "a,b", "a\n", "../x", "a" * 65):
        with pytest.raises(InvalidArgument) as caught:
            inventory.add_host(name, "10.0.0.1")
        assert caught.value.reason == "INVALID_HOST_NAME"
        with pytest.raises(InvalidArgument):
            inventory.set_group(name, ["web1"])
    with pytest.raises(InvalidArgument):
        inventory.add_host("x", "10.0.0.1", labels={"a b": "c"})
    with pytest.raises(NotFound):
        inventory.set_group("g", ["nobody"])
    with pytest.raises(NotFound):
        inventory.set_default(["@nobody"])
    assert list(inventory.hosts) == ["web1", "web2", "db.1"]


@pytest.mark.parametrize(
    ("text", "normal", "target"),
    [
        ("10.0.0.1", "10.0.0.1:7443", "10.0.0.1:7443"),
        ("web1.example.com:1", "web1.example.com:1", "web1.example.com:1"),
        ("localhost:65535", "localhost:65535", "localhost:65535"),
        ("::1", "[::1]:7443", "[::1]:7443"),
        ("[::1]", "[::1]:7443", "[::1]:7443"),
        ("[fd00::2]:8", "[fd00::2]:8", "[fd00::2]:8"),
        ("unix:///run/x.sock", "unix:///run/x.sock", "unix:/run/x.sock"),
    ],
)
def test_addresses(text: str, normal: str, target: str) -> None:
    address = Address.parse(text)
    assert (str(address), address.target) == (normal, target)
    assert Address.parse(normal) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":7443",
        "a:",
        "a:0",
        "a:65536",
        "a:b",
        "http://a",
        "dns://evil/a",
        "dns:///a",
        "unix:x",
        "unix://x",
        "a/b",
        "a b",
        "[a]:1",
        "[::1",
        "::1%eth0",
        "a\n",
        "-a",
        "unix:///a\nb",
        "u@a",
        "a:1:2",
        "xds:///x",
    ],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Address.parse(text)
    assert caught.value.reason == "INVALID_ADDRESS"


@given(st.text("a1.:[]/-", max_size=16))
def test_addresses_are_stable(text: str) -> None:
    try:
        address = Address.parse(text)
    except InvalidArgument:
        return
    assert Address.parse(str(address)) == address


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".config" / "shoal" / "config.toml"
    assert config_path({}) == home
    assert config_path({"XDG_CONFIG_HOME": "relative"}) == home
    assert config_path({"XDG_CONFIG_HOME": "/x"}) == Path("/x/shoal/config.toml")
    assert config_path({"XDG_CONFIG_HOME": "/x", "SHOAL_CONFIG": "/y.toml"}) == Path("/y.toml")
    assert config_path({"SHOAL_CONFIG": "~/y.toml"}) == tmp_path / "y.toml"
    monkeypatch.setenv("SHOAL_CONFIG", str(tmp_path / "z.toml"))
    assert Inventory.load().path == tmp_path / "z.toml"


def test_reading_imports_no_writer(path: Path) -> None:
    program = (
        "import sys, pathlib; from shoalctl.inventory import Inventory;"
        "Inventory.load(pathlib.Path(sys.argv[1])).select();"
        "sys.exit(bool({'tomlkit', 'difflib', 'cryptography', 'fcntl'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == 0


@pytest.mark.parametrize(
    ("invocation", "once"),
    [
        (Invocation(groups=("ci",)), True),
        (Invocation(groups=("ci,web",)), False),
        (Invocation(groups=("ci", "more")), True),
        (Invocation(groups=("ci",), hosts=("a",)), False),
        (Invocation(hosts=("@ci",)), True),
        (Invocation(groups=("ci",), labels=("x=y",)), False),
        (Invocation(groups=("ci",), everything=True), False),
        (Invocation(), True),
    ],
)
def test_groups_that_share_their_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invocation: Invocation, once: bool
) -> None:
    file = tmp_path / "config.toml"
    file.write_text('default = ["@ci"]\nbuilders = ["ci", "more"]\n[groups]\nci = []\nweb = []\nmore = []\n')
    monkeypatch.delenv("SHOAL_HOSTS", raising=False)
    assert invocation._replace(config=file).builds_once() is once
    monkeypatch.setenv("SHOAL_HOSTS", "@web")
    assert Invocation(config=file).builds_once() is False


def test_builders_are_names(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("builders = 3\n")
    with pytest.raises(InvalidArgument, match=":1: builders must be a list of group names"):
        Inventory.load(file)
