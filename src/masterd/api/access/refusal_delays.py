"""Decides how long the answer to an invalid credential waits. Pure: callers pass in the time.

The delay depends on the sender's address and on how many invalid credentials came from it before, never on what is
wrong with the credential. A valid credential is accepted without a delay, whatever else came from its address: behind
a proxy, or on a shared PC, all people have the same address.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

FIRST_S, MOST_S = 0.3, 2.0
_UNHURRIED = 5
"""So many invalid credentials of an address are answered after FIRST_S. The delay of each further one is longer."""
_GROWTH = 1.25
_FORGIVEN_S = 60.0
"""An address that has sent no invalid credential for so long begins anew."""
WAITING_MAX, WAITING_PER_ADDRESS_MAX = 128, 32
"""How many answers may wait at the same time. Further ones are given at once, so that they hold nothing here."""
_KNOWN_MAX = 1_024
_IPV6_NETWORK_BITS = 64


@dataclass(slots=True)
class _Sender:
    """What is known of an address. since: the time of its last invalid credential."""

    since: float
    count: int = 0
    waiting: int = 0


class RefusalDelays:
    """The delays of one masterd."""

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}
        self._waiting = 0

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._senders)

    def begin(self, address: str, now: float) -> float:
        """Count an invalid credential; return how many seconds its answer waits. 0: it does not wait, and `end` must
        not be called."""
        sender = self._sender(_network(address), now)
        if now - sender.since >= _FORGIVEN_S:
            sender.count = 0
        sender.count, sender.since = sender.count + 1, now
        if self._waiting >= WAITING_MAX or sender.waiting >= WAITING_PER_ADDRESS_MAX:
            return 0.0
        self._waiting += 1
        sender.waiting += 1
        excess = min(max(0, sender.count - _UNHURRIED), _KNOWN_MAX)
        return min(MOST_S, FIRST_S * _GROWTH**excess)

    def end(self, address: str, *, was_valid: bool = False) -> None:
        """The wait is over. was_valid: the credential has become valid meanwhile, so it is not counted."""
        self._waiting -= 1
        if (sender := self._senders.get(_network(address))) is not None:
            sender.waiting = max(0, sender.waiting - 1)
            sender.count -= was_valid and sender.count > 0

    def _sender(self, network: str, now: float) -> _Sender:
        found = self._senders.get(network)
        if found is None:
            if len(self._senders) >= _KNOWN_MAX:
                self._forget(now)
            found = self._senders[network] = _Sender(now)
        return found

    def _forget(self, now: float) -> None:
        """Forget the addresses that begin anew; if there are none, all for which no answer waits."""
        kept = {name: item for name, item in self._senders.items() if item.waiting or now - item.since < _FORGIVEN_S}
        if len(kept) >= _KNOWN_MAX:
            kept = {name: item for name, item in kept.items() if item.waiting}
        self._senders = kept


def _network(address: str) -> str:
    """What stands for an address: of IPv6 its network, because one PC may use each address of that."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _IPV6_NETWORK_BITS), strict=False))
