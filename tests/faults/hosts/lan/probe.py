"""Tests which hosts reach which: a datagram from each to each, in the hosts' own network namespaces.

The effect of a network fault is checked by this, not by the rules that the fault has set.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import select
import socket
import time
from collections.abc import Collection, Iterator, Mapping, Sequence

from tests.faults.hosts.lan.namespaces import NAMES
from tests.faults.hosts.lan.net import address

OPERATOR = "op"
Pair = tuple[str, str]
"""Sender and receiver."""
_PORT = 7
_ROUND_S = 0.03
_LAST_S = 0.02
_PATIENCE_S = 5.0
_NEWNET = 0x40000000


def pairs(hosts: Sequence[str]) -> set[Pair]:
    """Return all pairs of hosts, and of hosts with the operator."""
    everyone = [*hosts, OPERATOR]
    return {(source, target) for source in everyone for target in everyone if source != target}


def complaint(cut: Collection[Pair], heard: Collection[Pair], hosts: Sequence[str]) -> str | None:
    """Return which pairs are reachable or cut against expectation; None if there are none."""
    leaks = sorted(set(cut) & set(heard))
    lost = sorted(pairs(hosts) - set(cut) - set(heard))
    if leaks:
        return "was to be cut, and is heard: " + ", ".join(f"{source} by {target}" for source, target in leaks)
    if lost:
        return "was not to be cut, and is not heard: " + ", ".join(f"{source} by {target}" for source, target in lost)
    return None


def check(hosts: Sequence[str], cut: Collection[Pair], patience_s: float = _PATIENCE_S) -> None:
    """Raise AssertionError unless exactly these pairs are cut. Blocks: not to be called in the event loop."""
    heard = reach(hosts, pairs(hosts) - set(cut), patience_s)
    why = complaint(cut, heard, hosts)
    assert why is None, why


def reach(hosts: Sequence[str], awaited: Collection[Pair], patience_s: float = _PATIENCE_S) -> set[Pair]:
    """Return the pairs that are reachable: test until all awaited ones are, and then for a moment more."""
    heard: set[Pair] = set()
    with contextlib.ExitStack() as stack:
        sockets = {host: stack.enter_context(_socket(host)) for host in [*hosts, OPERATOR]}
        nonce = secrets.token_hex(8)
        deadline = time.monotonic() + patience_s
        while True:
            _send(sockets, nonce)
            complete = set(awaited) <= heard
            heard |= _receive(sockets, nonce, _LAST_S if complete else _ROUND_S)
            if complete or time.monotonic() > deadline:
                return heard


def _send(sockets: Mapping[str, socket.socket], nonce: str) -> None:
    for source, sender in sockets.items():
        for target in sockets:
            if target != source:
                with contextlib.suppress(OSError):  # no listener, or an error of an earlier datagram
                    sender.sendto(f"{nonce} {source}".encode(), (address(target), _PORT))


def _receive(sockets: Mapping[str, socket.socket], nonce: str, for_s: float) -> set[Pair]:
    heard = set()
    names = {listener: host for host, listener in sockets.items()}
    until = time.monotonic() + for_s
    while (left_s := until - time.monotonic()) > 0:
        for listener in select.select(list(names), [], [], left_s)[0]:
            with contextlib.suppress(OSError):
                said, source = listener.recv(100).decode("ascii", "replace").split(" ")
                if said == nonce:
                    heard.add((source, names[listener]))
    return heard


@contextlib.contextmanager
def _socket(host: str) -> Iterator[socket.socket]:
    """Open a socket on that host: a socket stays in the network namespace in which it was created."""
    with _within(host):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with made:
        made.bind((address(host), _PORT))
        yield made


@contextlib.contextmanager
def _within(host: str) -> Iterator[None]:
    """Move this thread into the host's network namespace until the block ends."""
    if host == OPERATOR:
        yield
        return
    ours = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    theirs = os.open(NAMES / host, os.O_RDONLY)
    try:
        _enter(theirs)
        try:
            yield
        finally:
            _enter(ours)
    finally:
        os.close(ours)
        os.close(theirs)


def _enter(namespace: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.setns(namespace, _NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns failed")
