"""Which network addresses are public. Pure.

A name that somebody else controls may lead anywhere: to this machine, to its network, to the data service of a cloud.
"""

import ipaddress

_IPv4 = ipaddress.IPv4Address
_IPv6 = ipaddress.IPv6Address
# Networks whose addresses carry one of IPv4 and are delivered there: it is judged instead.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = ipaddress.IPv6Network("::/96")  # RFC 4291, deprecated
# Not public whatever they carry. Python counts them as global.
_CLOSED = (
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4, RFC 7526
    ipaddress.ip_network("2002::/16"),  # 6to4 itself, RFC 3056
    ipaddress.ip_network("2001::/32"),  # Teredo, RFC 4380
    ipaddress.ip_network("64:ff9b:1::/48"),  # NAT64 within one network, RFC 8215
    ipaddress.ip_network("fec0::/10"),  # site-local, RFC 3879
)


def is_public(address: str) -> bool:
    """Whether an address, written as IPv4 or IPv6 (with or without a zone), is one of the public internet.

    Private, loopback, link-local, shared (CGNAT), multicast, reserved and unspecified ones are not.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, _IPv6):
        carried = found.ipv4_mapped
        if carried is None and (found in _NAT64 or found in _COMPATIBLE):
            carried = _IPv4(int(found) & 0xFFFFFFFF)
        found = carried or found
    closed = any(found in network for network in _CLOSED if network.version == found.version)
    return found.is_global and not (closed or found.is_multicast or found.is_reserved or found.is_unspecified)
