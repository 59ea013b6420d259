"""The rtnetlink wire format, byte by byte, and its parser against damaged input."""

from __future__ import annotations

import struct
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import InvalidArgument
from shoald.host import links, netlink
from shoald.host.links import Endpoint

little_endian = pytest.mark.skipif(struct.pack("=H", 1) != b"\x01\x00", reason="expected bytes are little-endian")


@little_endian
def test_attribute_is_padded_but_its_length_is_not() -> None:
    assert netlink.text(3, "br0") == b"\x08\x00\x03\x00br0\x00"
    assert netlink.text(3, "br") == b"\x07\x00\x03\x00br\x00\x00"
    assert netlink.nested(18, netlink.u8(4, 1)) == b"\x0c\x00\x12\x80\x05\x00\x04\x00\x01\x00\x00\x00"


@little_endian
def test_request_header() -> None:
    request = links.up_request(7)
    assert request.encode(5) == (
        b"\x20\x00\x00\x00"  # length 32
        b"\x10\x00\x05\x00"  # RTM_NEWLINK, REQUEST | ACK
        b"\x05\x00\x00\x00\x00\x00\x00\x00"  # sequence, port
        b"\x00\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00"  # index 7, flags and mask IFF_UP
    )


@little_endian
def test_default_route() -> None:
    payload = links.default_route_request(2, ip_address("10.1.0.1")).payload
    assert payload[:12] == b"\x02\x00\x00\x00\xfe\x04\x00\x01\x00\x00\x00\x00"
    assert payload[12:] == b"\x08\x00\x05\x00\x0a\x01\x00\x01\x08\x00\x04\x00\x02\x00\x00\x00"


@pytest.mark.parametrize("text", ["10.1.0.7/24", "10.1.0.7/32", "fd00::7/64", "::1/128"])
def test_an_address_comes_back_as_it_was(text: str) -> None:
    address = ip_interface(text)
    assert links.parse_address(links.address_request(9, address).payload) == (9, address)


def test_broadcast_only_where_there_is_one() -> None:
    kinds = [kind for kind, _ in netlink.attributes(links.address_request(1, ip_interface("10.0.0.1/24")).payload[8:])]
    assert 4 in kinds
    kinds = [kind for kind, _ in netlink.attributes(links.address_request(1, ip_interface("10.0.0.1/31")).payload[8:])]
    assert 4 not in kinds


def test_bridge_request_describes_a_link() -> None:
    link = links.parse_link(links.bridge_request("shoal0", "02:00:00:00:00:01", 1400).payload)
    assert (link.name, link.mac, link.mtu, link.kind, link.up) == ("shoal0", "02:00:00:00:00:01", 1400, "bridge", True)


@pytest.mark.parametrize("name", ["", "a" * 16, "a/b", "a b", ".", "..", "-x", "a\n", "é"])
def test_bad_interface_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        links.bridge_request(name, "02:00:00:00:00:01", 1500)
    with pytest.raises(InvalidArgument):
        links.veth_request("ok", None, 3, Endpoint(name, "02:00:00:00:00:01", ()))


@pytest.mark.parametrize(
    "mac", ["", "02:00:00:00:00", "03:00:00:00:00:01", "zz:00:00:00:00:00", "02:00:00:00:00:01:02"]
)
def test_bad_macs_are_refused(mac: str) -> None:
    with pytest.raises(InvalidArgument):
        links.bridge_request("br0", mac, 1500)


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40)), max_size=8))
def test_attributes_round_trip(pairs: list[tuple[int, bytes]]) -> None:
    encoded = b"".join(netlink.attribute(kind, value) for kind, value in pairs)
    assert list(netlink.attributes(encoded)) == pairs


@given(st.binary(max_size=200))
def test_damaged_input_ends_the_parsers(data: bytes) -> None:
    list(netlink.parse(data))
    list(netlink.attributes(data))


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_messages_round_trip(payloads: list[bytes]) -> None:
    datagram = b"".join(netlink.Request(16, 0, payload, "x").encode(number) for number, payload in enumerate(payloads))
    parsed = list(netlink.parse(datagram))
    assert [message.payload for message in parsed] == payloads
    assert [message.sequence for message in parsed] == list(range(len(payloads)))


def test_sysctl_stays_below_proc_sys() -> None:
    for name in ("../etc/passwd", "net/../../etc/passwd", "/etc/passwd"):
        with pytest.raises(InvalidArgument):
            links.sysctl(name, 1)
