"""The etcd member on this PC is found for any spelling and order of endpoints, and never guessed."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from masterd.upkeep.local_member import LocalMember, find_local_member, own_addresses

_OWN = frozenset({"127.0.0.1", "::1", "10.0.0.2", "192.168.7.2", "fe80::2"})
_NAMES = {
    "pc1": ["10.0.0.1"],
    "pc2": ["127.0.1.1"],  # as Debian has it in /etc/hosts
    "pc2.lan": ["10.0.0.2"],
    "pc3": ["10.0.0.3"],
    "localhost": ["127.0.0.1", "::1"],
}


def _resolve(name: str) -> list[str]:
    if name not in _NAMES:
        raise OSError(f"no such host {name}")
    return _NAMES[name]


async def _found(endpoints: Sequence[str], advertised: str) -> LocalMember:
    return await find_local_member(endpoints, advertised, local_addresses=lambda: _OWN, resolve=_resolve, timeout_s=5.0)


_ALL = ["10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379"]


@pytest.mark.parametrize(
    ("endpoints", "advertised", "member"),
    [
        (_ALL, "10.0.0.2", "10.0.0.2:2379"),  # one list for all PCs
        ([f"https://{item}/" for item in _ALL], "10.0.0.2", "10.0.0.2:2379"),
        (_ALL, "pc2", "10.0.0.2:2379"),  # --listen 0.0.0.0, or a name is advertised
        (_ALL, "127.0.0.1", "10.0.0.2:2379"),  # --listen as it is by default
        (_ALL, "unknown", "10.0.0.2:2379"),
        (_ALL, "10.0.0.3", "10.0.0.2:2379,10.0.0.3:2379"),  # a container that goes by its host's address: not sure
        (["pc1:2379", "pc2.lan:2379", "pc3:2379"], "10.0.0.2", "pc2.lan:2379"),
        (["pc1:2379", "pc2:2379", "pc3:2379"], "pc2", "pc2:2379"),
        (["pc1:2379", "PC2.lan:2379"], "pc2.LAN", "PC2.lan:2379"),
        (["pc1:2379", "pc3:2379"], "pc3", "pc3:2379"),
        (["[fe80::1]:2379", "[fe80:0::2]:2379"], "pc2", "[fe80::2]:2379"),  # endpoints are kept in their canonical form
        (["10.0.0.1:2379", "10.0.0.3:2379"], "10.0.0.2", None),  # a PC without a member
        (["gone1:2379", "gone2:2379"], "pc2", None),
        (["10.0.0.2:2379", "10.0.0.2:3379"], "10.0.0.2", "10.0.0.2:2379,10.0.0.2:3379"),
        (
            ["127.0.0.1:1", "127.0.0.1:2"],
            "127.0.0.1",
            "127.0.0.1:1",
        ),  # several simulated PCs on one address: the first one is the local member
        (["localhost:1", "localhost:2"], "localhost", "localhost:1"),
        (["127.0.0.1:1", "127.0.0.1:2"], "10.0.0.2", None),
        (["localhost:1", "10.0.0.3:2"], "pc2", None),
    ],
)
async def test_the_member_on_this_pc_is_found(endpoints: list[str], advertised: str, member: str | None) -> None:
    """The member is found by any address of this PC, and none is returned if two match."""
    found = await _found(endpoints, advertised)
    if member is None or "," in member:
        assert found.member is None
        assert all(possible in found.why for possible in (member or "is an address of this PC").split(","))
    else:
        assert found == LocalMember(member)


async def test_names_that_are_not_known_are_told() -> None:
    """The reason names the hosts that could not be resolved."""
    assert "not resolved: gone1, gone2" in (await _found(["gone2:1", "gone1:1", "pc1:1"], "pc2")).why


async def test_a_resolver_that_hangs_holds_nobody_up() -> None:
    """A resolver that hangs delays neither the result for other endpoints nor the end of the process."""
    held = threading.Event()

    def hangs(name: str) -> list[str]:
        held.wait()
        return []

    try:
        found = await find_local_member(
            ["pc1:1", "10.0.0.2:1"], "pc2", local_addresses=lambda: _OWN, resolve=hangs, timeout_s=0.01
        )
        assert found == LocalMember("10.0.0.2:1")
        assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("resolve "))
    finally:
        held.set()


def test_this_machine_has_addresses() -> None:
    """The addresses of this machine include the loopback address in canonical form."""
    assert "127.0.0.1" in own_addresses()
