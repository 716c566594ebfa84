"""Ports on loopback: chosen once for each process of a cluster, and checked before each start."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from nodestore.errors import NodectlError

HOST = "127.0.0.1"
_FIRST, _LAST = 15_000, 32_000
_TRIES_MAX = 10_000
_RANDOM = random.SystemRandom()


def ephemeral_ports() -> range:
    """Return the ports that the system uses for outgoing connections: a server there may find its port taken."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):
            low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
            return range(int(low), int(high) + 1)
    return range(49_152, 65_536)


def free_ports(count: int, taken: Iterable[int] = ()) -> list[int]:
    """Return `count` free ports, none of them in `taken`. Raises NodectlError if there are not enough."""
    avoided, busy = ephemeral_ports(), set(taken)
    found: list[int] = []
    for _ in range(_TRIES_MAX):
        if len(found) == count:
            return found
        port = _RANDOM.randrange(_FIRST, _LAST)
        if port not in busy and port not in avoided and is_free(port):
            found.append(port)
            busy.add(port)
    raise NodectlError(f"no {count} free ports between {_FIRST} and {_LAST} on {HOST}")


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket() as probe:
        if sys.platform == "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:  # as the servers do: recently closed connections do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def describe_listener(port: int) -> str:
    """Return the name and pid of the program that listens on a port; "another program" if they are not known."""
    try:
        found = psutil.net_connections("tcp")
    except (psutil.Error, OSError):  # needs root on some systems
        return "another program"
    for connection in found:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
        if listens and connection.pid:
            with contextlib.suppress(psutil.Error):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another program"
