"""What may be fetched from: the list of hosts, and which addresses are public."""

import ipaddress

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibox_server.errors import AddressNotAllowedError
from calibox_server.fetch.addresses import is_public
from calibox_server.fetch.hosts import AllowedHosts, FetchHostsError, read_url


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "100.127.255.255", "224.0.0.1", "239.255.255.250", "233.1.1.1", "240.0.0.1", "255.255.255.255"),
        *("192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1", "100::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.0.0.1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:101:101::", "2001::1"),
        *("", "localhost", "127.1", "0x7f000001", "1.1.1.1.1", "[::1]"),
    ],
)
def test_every_other_address_is_not(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_an_address_is_as_public_in_the_clothes_of_ipv6(address: ipaddress.IPv4Address) -> None:
    for written in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(written) == is_public(str(address))
    assert not is_public(str(address)) or address.is_global


ALLOWED = AllowedHosts.parse(
    ("images.example.com", "*.cdn.example.com", "http://old.example.com", "alt.example.com:8443", "[2606:4700::1111]")
)


@pytest.mark.parametrize(
    "url",
    [
        "https://images.example.com/a.jpg?b=c#d",
        "HTTPS://IMAGES.Example.com./a.jpg",
        "https://images.example.com:443/",
        "https://a.cdn.example.com/",
        "https://a.b.cdn.example.com/",
        "http://old.example.com/",
        "https://alt.example.com:8443/",
        "https://[2606:4700::1111]/",
    ],
)
def test_what_is_on_the_list_passes(url: str) -> None:
    ALLOWED.check(read_url(url))


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example.com/",  # not by plain HTTP
        "https://old.example.com/",
        "https://images.example.com:8443/",
        "https://alt.example.com/",
        "https://images.example.com.evil.example/",
        "https://evilimages.example.com/",
        "https://cdn.example.com/",  # only what is below it
        "https://evilcdn.example.com/",
        "https://images.example.com@evil.example/",
        "https://user:secret@images.example.com/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://2130706433/",
        "file:///etc/passwd",
        "ftp://images.example.com/a.jpg",
        "//images.example.com/a.jpg",
        "images.example.com/a.jpg",
        "https://",
        "",
        "https://images.example.com/\r\nX: y",
        "https://images.example.com/" + "a" * 2048,
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(AddressNotAllowedError):
        ALLOWED.check(read_url(url))


def test_an_empty_list_allows_nothing() -> None:
    assert not AllowedHosts.parse(())
    with pytest.raises(AddressNotAllowedError):
        AllowedHosts().check(httpx2.URL("https://images.example.com/"))


@pytest.mark.parametrize(
    "entry", ["*", "*.", "a.*.b", "**.a", "https://a/b", "ftp://a", "a b", "a:0", "a:70000", "a:", "a@b", "a/", "."]
)
def test_an_entry_that_is_no_host_is_refused_with_how_to_write_it(entry: str) -> None:
    with pytest.raises(FetchHostsError, match=r"which is not a host; write images\.example\.com"):
        AllowedHosts.parse(("fine.example.com", entry))
