"""The addresses of other masterds: literal ones at once, names after a lookup in the background."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from masterd.upkeep.master_addresses import MasterAddresses
from tests.support.waiting import eventually


class _Names:
    """A resolver whose answers can be changed and held back."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {"pc2": ["10.0.0.2", "fd00::2"], "pc3": ["10.0.0.3"]}
        self.asked: list[str] = []
        self.go = threading.Event()
        self.go.set()

    def resolve(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        self.go.wait(30)
        if name not in self.answers:
            raise OSError("no such name")
        return self.answers[name]


class _Masters:
    """URLs of candidates, a resolver and a clock."""

    def __init__(self, *urls: str) -> None:
        self.urls, self.names, self.now = list(urls), _Names(), 100.0
        self.addresses = MasterAddresses(lambda: self.urls, resolve=self.names.resolve, clock=lambda: self.now)


async def test_a_name_is_resolved_while_connections_are_accepted() -> None:
    """A resolver that hangs holds up nothing, and is asked once."""
    masters = _Masters("http://10.0.0.1:8401", "https://pc2:8401", "http://[fd00::7]:8401", "no url")
    masters.names.go.clear()
    for _ in range(3):
        assert masters.addresses.current() == {"10.0.0.1", "fd00::7"}
    await eventually(lambda: masters.names.asked == ["pc2"], "the name is looked up once")
    masters.names.go.set()
    everything = {"10.0.0.1", "fd00::7", "10.0.0.2", "fd00::2"}
    await eventually(lambda: masters.addresses.current() == everything, "the addresses of the name are known")
    await masters.addresses.close()


async def test_names_are_looked_up_again() -> None:
    """After 30 s, or at once for a new one. A name that cannot be resolved any more keeps its addresses; one of a
    masterd that has gone is forgotten."""
    masters = _Masters("http://pc2:8401")
    await eventually(lambda: "10.0.0.2" in masters.addresses.current(), "pc2 is known")
    masters.urls.append("http://pc3:8401")
    await eventually(lambda: "10.0.0.3" in masters.addresses.current(), "pc3 is known at once")
    asked = len(masters.names.asked)
    del masters.names.answers["pc2"]
    masters.names.answers["pc3"] = ["10.0.0.33"]
    assert masters.addresses.current() == {"10.0.0.2", "fd00::2", "10.0.0.3"}
    assert len(masters.names.asked) == asked
    masters.now += 31.0
    await eventually(lambda: "10.0.0.33" in masters.addresses.current(), "the new address of pc3 is known")
    assert masters.addresses.current() == {"10.0.0.2", "fd00::2", "10.0.0.33"}
    masters.urls.remove("http://pc3:8401")
    assert masters.addresses.current() == {"10.0.0.2", "fd00::2"}
    await masters.addresses.close()


async def test_a_lookup_ends_with_the_api() -> None:
    """Its thread is not waited for."""
    masters = _Masters("http://pc2:8401")
    masters.names.go.clear()
    masters.addresses.current()
    await masters.addresses.close()
    masters.names.go.set()
