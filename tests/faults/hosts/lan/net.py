"""The LAN: a bridge in the run's network namespace, and a network namespace for each host behind a port of it.

The run's namespace is on the LAN too, as `OPERATOR`: a PC that never fails.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.faults.hosts.lan.namespaces import NAMES

BRIDGE = "lan"
OPERATOR = "10.77.0.254"
_COMMAND_S = 20.0


class NetError(Exception):
    """A command of ip or iptables failed."""


def _do(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_S)
    if done.returncode != 0:
        raise NetError(f"{' '.join(argv)}: {done.stderr.strip()}")


def address(host: str) -> str:
    """Return the IPv4 address of `h<number>`, or of the operator (`op`)."""
    return OPERATOR if host == "op" else f"10.77.0.{int(host.removeprefix('h'))}"


def _hardware(host: str) -> str:
    """Return the MAC address of a host, which stays the same if its network is created again."""
    return f"02:00:0a:4d:00:{int(host.removeprefix('h')):02x}"


class Lan:
    """The hosts' network. The kernel removes it with the run's namespaces."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self.hosts = tuple(hosts)
        _do("ip", "link", "set", "lo", "up")
        _do("ip", "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        _do("ip", "addr", "add", f"{OPERATOR}/24", "dev", BRIDGE)
        _do("ip", "link", "set", BRIDGE, "up")
        for host in self.hosts:
            self._plug_in(host, cable=True)

    def _plug_in(self, host: str, *, cable: bool) -> None:
        _do("ip", "netns", "add", host)
        _do("ip", "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", host)
        _do("ip", "-n", host, "link", "set", "eth0", "address", _hardware(host))
        _do("ip", "link", "set", host, "master", BRIDGE, *(("up",) if cable else ()))
        for words in ("addr add {}/24 dev eth0", "link set eth0 up", "link set lo up"):
            _do("ip", "-n", host, *words.format(address(host)).split())

    def replace(self, host: str) -> None:
        """Create a host's network again, with the cable unplugged, so that all its connections are gone.

        Otherwise unsent data and FINs of killed programs would leave once the cable is plugged in again, but a PC that
        has lost its power sends nothing later.
        """
        _do("ip", "link", "del", host)  # the other end is removed too: the old network stays without a cable
        _do("ip", "netns", "del", host)
        self._plug_in(host, cable=False)

    def enter(self, host: str) -> list[str]:
        """Return the prefix of a command line that is to run on that host."""
        return ["nsenter", f"--net={NAMES / host}", "--"]

    def unplug(self, host: str) -> None:
        """Unplug the cable: no packet reaches or leaves the host, and no connection is closed."""
        _do("ip", "link", "set", host, "down")

    def plug(self, host: str) -> None:
        _do("ip", "link", "set", host, "up")

    def plugged(self, host: str) -> bool:
        return Path(f"/sys/class/net/{host}/operstate").read_text().strip() == "up"

    def cut(self, source: str, target: str) -> None:
        """Drop packets from `source` to `target`; the other direction still works. The operator has no cuts."""
        self._rule("-A", source, target)

    def join(self, source: str, target: str) -> None:
        """End one cut."""
        self._rule("-D", source, target)

    def _rule(self, what: str, source: str, target: str) -> None:
        rule = ["INPUT", "-s", address(source), "-j", "DROP"]
        _do(*self.enter(target), "iptables", "-w", "10", what, *rule)

    def heal(self) -> None:
        """End all cuts."""
        for host in self.hosts:
            _do(*self.enter(host), "iptables", "-w", "10", "-F", "INPUT")
