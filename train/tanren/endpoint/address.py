"""Which address an endpoint has, and whether rows sent there leave the machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

_OWN_NETWORK = (".local", ".lan", ".internal", ".home.arpa")


def address_problem(base_url: str) -> str | None:
    """What an address has to be and is not; None for a good one."""
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "an address such as http://127.0.0.1:8000/v1"
    if parts.scheme not in ("http", "https") or not host or base_url != base_url.strip():
        return "an address such as http://127.0.0.1:8000/v1"
    if parts.username is not None or parts.password is not None:
        return "an address without a user and password (a key is named by api_key_env)"
    if parts.query or parts.fragment:
        return "an address without anything after ? or # (a key is named by api_key_env)"
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return "the address that /chat/completions is added to, such as http://127.0.0.1:8000/v1"
    return None


def host_of(base_url: str) -> str:
    """The host in small letters, without port and brackets."""
    return (urlsplit(base_url).hostname or "").lower()


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its very name. No name is looked up."""
    if host == "localhost":
        return True
    address = _ip(host)
    return address is not None and address.is_loopback


def is_own_network(host: str) -> bool:
    """This machine or one nearby: a private IP address, or a name that only a local network has."""
    address = _ip(host)
    if address is not None:
        return address.is_loopback or address.is_private
    return "." not in host or host.endswith(_OWN_NETWORK)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
