"""Finds out whether the programs that hold a lease in etcd may still renew it.

etcd lets a user renew a lease only if it may write every key that is attached to it. So a renewed lease proves that
its program has a valid credential and the rights that it needs to stay registered.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from nodestore.errors import Denied, Unavailable
from nodestore.etcd.pb import etcd_pb2 as pb
from nodestore.etcd.session import Etcd
from nodestore.etcd.types import RetryPolicy
from nodestore.schema.keys import Keys

WAIT_MAX_S = 30.0
_REMOVED_WITHIN_S = 5.0
"""etcd removes a lease that has ended within half a second, on a busy PC within a few seconds."""
_PAUSE_S = 0.2
_PROGRAMS_MAX = 5_000


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease: the whole seconds that are left (negative: it has ended), and its time to live."""

    left_s: int
    ttl_s: int


class ProgramLeases:
    """The leases of the masters and nodes that ran at one moment, by the key that each is attached to."""

    def __init__(self, keys: Keys, leases: dict[str, int]) -> None:
        self._keys, self._leases = keys, leases

    @classmethod
    async def read(cls, etcd: Etcd, keys: Keys) -> ProgramLeases:
        found = [await etcd.range(prefix, limit=_PROGRAMS_MAX) for prefix in (keys.candidates, keys.alive)]
        return cls(keys, {kv.key: kv.lease for part in found for kv in part.kvs if kv.lease})

    async def wait_renewed(self, etcd: Etcd) -> list[str]:
        """Wait until each lease was renewed after the call; return the programs for which that was not seen in time.

        Denied, with their names, if the leases of programs have ended and the programs have not registered again.
        """
        began, open_keys, refused = time.monotonic(), dict(self._leases), list[str]()
        while open_keys and time.monotonic() - began < WAIT_MAX_S:
            for key, lease in tuple(open_keys.items()):
                renewed = await self._was_renewed(etcd, key, lease, began)
                if renewed is not None:
                    del open_keys[key]
                    refused += [] if renewed else [self._program(key)]
            if refused:
                raise Denied(
                    f"etcd refuses {', '.join(sorted(refused))}, or it was stopped meanwhile: give each its "
                    "certificate, or its --user and --password-file, and restart it"
                )
            await asyncio.sleep(_PAUSE_S)
        return sorted(map(self._program, open_keys))

    async def _was_renewed(self, etcd: Etcd, key: str, lease: int, began: float) -> bool | None:
        """Whether the program of this key may renew its lease; None if it is not known yet."""
        passed_s = time.monotonic() - began  # before the call: a late answer must not seem to be a renewal
        try:
            state = await _lease_state(etcd, lease)
            if state.left_s < 0:
                found = await etcd.get(key)
                return found is not None and found.lease != lease
        except Unavailable:
            return None
        return was_renewed(state, passed_s)

    def _program(self, key: str) -> str:
        if key.startswith(self._keys.candidates):
            return f"masterd:{key.removeprefix(self._keys.candidates)}"
        return f"noded:{key.removeprefix(self._keys.alive)}"


def was_renewed(state: LeaseState, passed_s: float) -> bool | None:
    """Whether a lease that exists was renewed within the last `passed_s` seconds; None if it may not have been.

    etcd removes a lease some time after its end, and until then reports that 0 seconds are left.
    """
    if state.left_s > max(0.0, state.ttl_s - passed_s) or passed_s > state.ttl_s + _REMOVED_WITHIN_S:
        return True
    return None


async def _lease_state(etcd: Etcd, lease: int) -> LeaseState:
    request = pb.LeaseTimeToLiveRequest(ID=lease)
    response = await etcd.call("Lease/LeaseTimeToLive", request, retry=RetryPolicy.FREELY)
    return LeaseState(int(response.TTL), int(response.grantedTTL))
