"""The daemon's configuration: defaults, sources, and errors that name key and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shoal.errors import InvalidArgument, NotFound
from shoald.config import Config, Network, Tls, from_toml, load
from shoald.config_check import is_loopback, split_address

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.example.toml"
TLS = '[tls]\ncert="/a"\nkey="/b"\nca="/c"\n'


def test_nothing_said_is_the_default() -> None:
    assert from_toml("") == Config()


def test_the_example_is_the_default() -> None:
    assert from_toml(EXAMPLE.read_text()) == Config()


def test_each_line_of_the_example_when_uncommented_is_the_default_or_an_example_of_a_path() -> None:
    text = re.sub(r"^#([a-z_]+ = )", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE)
    pki = Path("/etc/shoal/pki")
    expected = Config(
        tls=Tls(cert=pki / "host.pem", key=pki / "host-key.pem", ca=pki / "ca.pem", deny_list=pki / "deny-list")
    )
    assert from_toml(text) == expected


def test_the_example_names_every_key() -> None:
    text = EXAMPLE.read_text()
    for section in (Config, *(kind for kind in Config.__annotations__.values() if isinstance(kind, type))):
        for key in section.__struct_fields__:
            assert re.search(rf"^#?{key} = |^\[(\w+\.)?{key}\]", text, re.MULTILINE), key


def test_sources_in_order_of_rank(tmp_path: Path) -> None:
    file = tmp_path / "shoald.toml"
    file.write_text('log_level = "error"\nroot = "/file"\nrun_dir = "/file-run"\n[network]\nmtu = 1400\n')
    env = {"SHOALD_ROOT": "/env", "SHOALD_RUN_DIR": "/env-run", "SHOALD_NETWORK_BRIDGE": "br1", "OTHER": "x"}
    config = load(file, env, {"run_dir": "/flag-run"})
    assert (str(config.root), str(config.run_dir), config.log_level) == ("/env", "/flag-run", "error")
    assert (config.network.bridge, config.network.mtu) == ("br1", 1400)


def test_numbers_and_lists_from_the_environment() -> None:
    env = {
        "SHOALD_NETWORK_MTU": "9000",
        "SHOALD_REGISTRIES_INSECURE": "a:5000, 10.0.0.0/8",
        "SHOALD_LISTEN": "127.0.0.1:1",
        "SHOALD_TLS_CERT": "/a",
        "SHOALD_TLS_KEY": "/b",
        "SHOALD_TLS_CA": "/c",
    }
    config = load(None, env, {"listen": ["[::1]:2", "h:3"]})
    assert config.network.mtu == 9000
    assert config.registries.insecure == ("a:5000", "10.0.0.0/8")
    assert config.listen == ("[::1]:2", "h:3")


def test_the_socket_follows_the_run_directory() -> None:
    assert str(from_toml('run_dir = "/run/x"').socket_path) == "/run/x/api/shoald.sock"
    assert str(from_toml('socket = "/s"').socket_path) == "/s"
    assert from_toml(f'socket = "off"\nlisten = ["h:1"]\n{TLS}').socket_path is None


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("rot = '/x'", "unknown key 'rot'", "1"),
        ("\n[network]\nbrige = 'x'", "unknown key 'network.brige'", "3"),
        ("[nets]\nx = 1", "unknown key 'nets'", "1"),
        ("[network]\nmtu = 'big'", "network.mtu: Expected `int`", "2"),
        ("[network]\n\nmtu = 10", "network.mtu: must be", "3"),
        ("network = 3", "network: Expected", "1"),
        ("root = 'relative'", "not an absolute path", "1"),
        ("root = '/a/../b'", "not an absolute path", "1"),
        ("root = '/'", "/ itself", "1"),
        ("root = '/run'\nrun_dir = '/run/shoal'", "must not lie in root", "2"),
        ("log_level = 'loud'", "log_level", "1"),
        ("socket = '@abstract'", "not an absolute path", "1"),
        (f"socket = '/{'x' * 120}'", "121 bytes", "1"),
        ("socket = 'off'", "out of reach", "0"),
        ("listen = ['127.0.0.1:7443']", "can't be served without TLS", "1"),
        (f"listen = ['7443']\n{TLS}", "not host:port", "1"),
        (f"listen = ['h:70000']\n{TLS}", "not host:port", "1"),
        (f"listen = ['::1:7443']\n{TLS}", "not host:port", "1"),
        ("metrics_listen = 'x'", "not host:port", "1"),
        ("[tls]\ncert = '/a'", "tls.key: is missing", "0"),
        ("[tls]\ncert = ''", "tls.cert: an empty path", "2"),
        ("[network]\nbridge = 'much-too-long-name'", "not the name of an interface", "2"),
        ("[network]\nbridge = 'a b'", "not the name of an interface", "2"),
        ("[network]\nsubnet = '10.0.0.1/20'", "not an IPv4 network", "2"),
        ("[network]\nsubnet = '10.0.0.0/30'", "must be /8 to /29", "2"),
        ("[network]\nnft_table = 'a; flush ruleset'", "not a table's name", "2"),
        ("[network]\npublish_address = 'localhost'", "not an IPv4 address", "2"),
        ("[runtime]\nname = 'docker'", "not auto, crun, runc", "2"),
        ("[runtime]\nconmon = 'conmon'", "not an absolute path", "2"),
        ("[runtime]\ncgroup_parent = '/a/../..'", "not a cgroup path", "2"),
        ("[userns]\nbase = 1000", "ids of this host's users", "2"),
        ("[userns]\nsize = 1000", "at least 65536", "2"),
        ("[userns]\nslots = 100000", "the last id would be", "2"),
        ("[limits]\nmax_calls = 0", "at least 1", "2"),
    ],
)
def test_what_can_not_work_is_refused_with_key_and_line(text: str, message: str, line: str) -> None:
    with pytest.raises(InvalidArgument, match=re.escape(message)) as caught:
        from_toml(text, "f")
    assert caught.value.reason == "INVALID_CONFIG"
    assert caught.value.metadata["key"]
    if line != "0":
        assert caught.value.metadata["line"] == line
        assert str(caught.value).startswith(f"f:{line}: ")


def test_a_misspelt_key_gets_a_suggestion() -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_toml("[network]\nsubnett = 'x'")
    assert caught.value.hint == "did you mean 'subnet'?"


def test_broken_toml_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"f: not TOML: .*line 2"):
        from_toml("root = '/x'\nroot\n", "f")
    with pytest.raises(NotFound, match="does not exist"):
        load(tmp_path / "none.toml", {}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="can't read"):
        load(tmp_path / "binary", {}, {})


def test_an_error_in_the_environment_names_the_key() -> None:
    with pytest.raises(InvalidArgument, match=r"network\.mtu"):
        load(None, {"SHOALD_NETWORK_MTU": "many"}, {})


def test_addresses() -> None:
    assert split_address("[::1]:80") == ("::1", 80)
    assert split_address("host:0") == ("host", 0)
    assert [is_loopback(host) for host in ("127.3.2.1", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_network_is_replaced_as_a_whole_section_only_where_it_is_said() -> None:
    assert from_toml('[network]\nbridge = "b0"').network == Network(bridge="b0")
