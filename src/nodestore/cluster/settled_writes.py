"""Writes a key by compare-and-swap until the outcome is known. masterd and nodectl share it.

Each write is one transaction which compares that the key is unchanged since it was read. So a second copy of it changes
nothing, and if the outcome is unknown, the same transaction is sent again to find it out.
"""

from __future__ import annotations

from nodestore.errors import Conflict, NoSpace, NoSpaceUnknown, OutcomeUnknown, Unavailable
from nodestore.etcd.session import KV, Compare, Etcd, Op, cmp_mod, op_delete, op_get, op_put

_ATTEMPTS = 5


async def put_settled(etcd: Etcd, key: str, value: bytes, what: str) -> None:
    """Write `value`, whatever the key holds. what: names it in the error.

    Conflict if other programs changed the key during each of five attempts. OutcomeUnknown if etcd does not answer in
    time.
    """
    for _ in range(_ATTEMPTS):
        found = await etcd.get(key)
        unchanged = cmp_mod(key, 0 if found is None else found.mod_revision)
        if await swap(etcd, [unchanged], [op_put(key, value)], key, value):
            return
    raise _changed_by_others(what)


async def delete_settled(etcd: Etcd, key: str, what: str) -> bool:
    """Delete the key; return False if it is absent. Raises the same errors as `put_settled`."""
    for _ in range(_ATTEMPTS):
        found = await etcd.get(key)
        if found is None:
            return False
        if await swap(etcd, [cmp_mod(key, found.mod_revision)], [op_delete(key)], key, None):
            return True
    raise _changed_by_others(what)


def _changed_by_others(what: str) -> Conflict:
    return Conflict(f"other programs changed {what} at the same time: try again")


async def swap(etcd: Etcd, compares: list[Compare], ops: list[Op], evidence: str, value: bytes | None) -> bool:
    """Send a transaction until its outcome is known; return whether it took effect.

    The key `evidence` holds `value` (None: is absent) if and only if it took effect.
    """
    # A put is not hedged: its copies are sent one after another. NoSpaceUnknown is about one copy only: that copy has
    # taken effect or never will, but another copy that is under way could still take effect. A delete needs no space,
    # so it may be hedged.
    hedged = value is None
    unknown: OutcomeUnknown | None = None
    for _ in range(_ATTEMPTS):
        try:
            result = await etcd.txn(compares, ops, [op_get(evidence)], repeatable=hedged)
        except NoSpaceUnknown as error:
            if await _holds(etcd, evidence, value, unknown or error):
                return True
            raise unknown or NoSpace(str(error)) from None
        except OutcomeUnknown as error:
            unknown = error
        except Unavailable:
            if unknown is not None:  # this copy had no effect, but an earlier one may have
                raise unknown from None
            raise
        else:
            # The value decides: if an earlier copy took effect, the compares of this one failed.
            return result.succeeded or _value(result.range(0).first) == value
    raise unknown or Unavailable("etcd does not answer")


async def _holds(etcd: Etcd, key: str, value: bytes | None, unknown: OutcomeUnknown) -> bool:
    """Whether the key holds this value. Raises `unknown` if etcd does not answer."""
    try:
        return _value(await etcd.get(key)) == value
    except Unavailable:
        raise unknown from None


def _value(found: KV | None) -> bytes | None:
    return found.value if found else None
