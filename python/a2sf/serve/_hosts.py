"""Whose requests a server answers: by the address it listens at, and by the name it is called."""

from __future__ import annotations

import ipaddress
import socket

# What a browser on this machine calls a server on it.
LOCAL = ("localhost", "127.0.0.1", "::1")
ANY = "*"


def resolve(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """Return the family and the address that a server listens at. Throws OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return family, (str(address[0]), int(address[1]))


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def default_allowed(host: str, keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names by which a server may be called that was told none; empty is any.

    A page from elsewhere whose name is made to lead here (DNS rebinding) is to the browser the same
    site as this server, and may read what it answers; but it calls it by that name. A key keeps it
    out as well, and where others reach the server its name is not known.
    """
    try:
        _, (address, _) = resolve(host, 0)
    except (OSError, UnicodeError):  # told when it is listened at
        return ()
    if keys or not is_loopback(address):
        return ()
    return tuple(dict.fromkeys([*LOCAL, host.lower()]))


def name_in(header: str) -> str:
    """Return the name in a header Host, without the port."""
    header = header.strip().lower()
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
