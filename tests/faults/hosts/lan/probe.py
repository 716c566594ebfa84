"""Which hosts hear which: a datagram from each to each, sent and received in the hosts' own network namespaces.

What a fault says of the network is checked by this, not by the rules that it has set.
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
"""Who sends, and who is to hear it."""
_PORT = 7
_ROUND_S = 0.03
_LAST_S = 0.02
_PATIENCE_S = 5.0
_NEWNET = 0x40000000


def pairs(hosts: Sequence[str]) -> set[Pair]:
    """Each with each, and with the operator."""
    everyone = [*hosts, OPERATOR]
    return {(source, target) for source in everyone for target in everyone if source != target}


def complaint(cut: Collection[Pair], heard: Collection[Pair], hosts: Sequence[str]) -> str | None:
    """What of these is cut and should not be, or is heard and should not be; None: all is as it should be."""
    leaks = sorted(set(cut) & set(heard))
    lost = sorted(pairs(hosts) - set(cut) - set(heard))
    if leaks:
        return "was to be cut, and is heard: " + ", ".join(f"{source} by {target}" for source, target in leaks)
    if lost:
        return "was not to be cut, and is not heard: " + ", ".join(f"{source} by {target}" for source, target in lost)
    return None


def check(hosts: Sequence[str], cut: Collection[Pair], patience_s: float = _PATIENCE_S) -> None:
    """AssertionError unless exactly these are cut. From a thread that may be late, not from the event loop's."""
    heard = reach(hosts, pairs(hosts) - set(cut), patience_s)
    why = complaint(cut, heard, hosts)
    assert why is None, why


def reach(hosts: Sequence[str], awaited: Collection[Pair], patience_s: float = _PATIENCE_S) -> set[Pair]:
    """Who was heard by whom, looked at until all that are awaited were, and then for a moment more."""
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
                with contextlib.suppress(OSError):  # nobody there, or an earlier one did not arrive
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
    """One on that host: a socket stays in the network namespace in which it was made."""
    with _within(host):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    with made:
        made.bind((address(host), _PORT))
        yield made


@contextlib.contextmanager
def _within(host: str) -> Iterator[None]:
    """This thread is on that host."""
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
