"""The network of the host harness, in its own namespaces: which connections are cut, and what a host without power
still sends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests.faults.hosts.lan import namespaces, probe
from tests.faults.hosts.lan.capture import Capture
from tests.faults.hosts.lan.net import Lan, address

HOSTS = ["h1", "h2", "h3"]
_WAIT_S = 20.0
_PORT = 5000
_TALKS = f"""
import os, socket, sys
made = socket.create_connection(("{address("h2")}", {_PORT}))
made.sendall(b"x")
print("connected", flush=True)
sys.stdin.read()
"""


def in_namespaces(scene: Callable[[], None]) -> None:
    """Run the scenario in namespaces; its assertions are reported here."""
    try:
        namespaces.check()
    except namespaces.CannotRun as reason:
        pytest.skip(str(reason))
    code = "from tests.faults.hosts.lan import namespaces; namespaces.settle(); "
    code += f"from {__name__} import {scene.__name__} as scene; scene()"
    argv = [
        "unshare",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
        "-c",
        code,
    ]
    done = subprocess.run(argv, cwd=namespaces.ROOT, capture_output=True, text=True, timeout=60.0)
    assert done.returncode == 0, done.stdout + done.stderr


def test_who_hears_whom_is_found_out() -> None:
    """Of cuts in one direction, of a cable that is out, and when all is whole again."""
    in_namespaces(cuts)


def cuts() -> None:
    lan = Lan(HOSTS)
    everyone = probe.pairs(HOSTS)
    probe.check(HOSTS, ())
    lan.cut("h1", "h2")
    assert probe.reach(HOSTS, everyone - {("h1", "h2")}) == everyone - {("h1", "h2")}
    with pytest.raises(AssertionError, match="is not heard: h1 by h2"):
        probe.check(HOSTS, (), patience_s=0.1)
    lan.join("h1", "h2")
    lan.unplug("h3")
    probe.check(HOSTS, {pair for pair in everyone if "h3" in pair})
    lan.replace("h3")
    probe.check(HOSTS, {pair for pair in everyone if "h3" in pair})
    lan.plug("h3")
    probe.check(HOSTS, ())
    with pytest.raises(AssertionError, match="is heard: h1 by h3"):
        probe.check(HOSTS, {("h1", "h3")})


def test_a_pc_that_lost_its_power_says_nothing_when_it_is_back() -> None:
    """If the network remained, the kernel would send data of killed programs later.

    Here the network is removed with the host.
    """
    in_namespaces(last_words)


def last_words() -> None:
    lan, capture = Lan(HOSTS), Capture()
    assert power_failure(lan, capture, lambda: None), "the capture does not see what was left"
    assert not power_failure(lan, capture, lambda: lan.replace("h1"))


def power_failure(lan: Lan, capture: Capture, meanwhile: Callable[[], None]) -> bool:
    """Return whether h1 sent packets of an earlier connection after its power failure."""
    listens = f"import socket; made = socket.create_server(('{address('h2')}', {_PORT})); print('up', flush=True); "
    listens += "one = made.accept(); import time; time.sleep(100)"
    with running(lan, "h2", listens) as server, running(lan, "h1", _TALKS) as client:
        lan.unplug("h1")
        client.kill()
        client.wait(_WAIT_S)
        meanwhile()
        since = time.monotonic()
        lan.plug("h1")
        until = since + 4.0  # the kernel retransmits after 0.2, 0.4, 0.8 and 1.6 s
        found: list[object] = []
        while not found and time.monotonic() < until:
            probe.reach(["h1", "h2"], ())
            found = list(capture.leftovers(address("h1"), since))
        server.kill()
    return bool(found)


class running:  # noqa: N801 - read as a word
    """Run a Python program on a host; return once it has printed a line."""

    def __init__(self, lan: Lan, host: str, code: str) -> None:
        self._process = subprocess.Popen(
            [*lan.enter(host), sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> subprocess.Popen[bytes]:
        assert self._process.stdout is not None
        assert os.read(self._process.stdout.fileno(), 100)
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(_WAIT_S)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
