"""Begins a new epoch after a backup was restored, so that no program acts on state that the restore removed.

Without a new epoch, a master that was suspended during the restore could write under its old term. And a node would
ignore the desired state in the restored store, because it has obeyed one with a greater (epoch, term, generation).
Terms and desired states are compared by their epoch first, so those of a new epoch are greater than all earlier ones;
and every fence compares the epoch.

This requires that no revision is used twice, which only the restore can ensure (`--bump-revision`). The bump is
visible as a gap: no key of the cluster has a revision between those in the backup and those after the restore.
Every step but the last is read-only. The last step is one transaction that compares what the others have read. So
the recovery may be interrupted anywhere and run again.

If `epoch` was deleted or garbled, alone or with all other keys, no masterd can lead, and those that run keep the state
in memory. Then they may go on running. The new epoch names the masterd whose state has the highest epoch and index as
its heir: the heir keeps its state, leads first, and writes a snapshot. All other masterds load that snapshot.

The new epoch is higher than every epoch that a key names, and than every epoch that a running daemon remembers and
reports.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

from nodestore.errors import Conflict, Garbage, NodectlError, NotFound, OutcomeUnknown, Unavailable
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import (
    Candidate,
    Entry,
    Epoch,
    Head,
    Paused,
    Status,
    Stored,
    TermRecord,
    decode,
    decode_or_none,
)

if TYPE_CHECKING:
    from nodestore.etcd.session import KV, Etcd

M = TypeVar("M", bound=Stored)

BUMP_MIN = 1_000_000_000
"""By how much a restore must raise the revision: by more than the store can have written after the backup. This many
writes take two days at 5,000 a second, and years at the rate of a wall of PCs."""
_APART_MAX = 1_000_000
"""Members whose revisions differ by more than this were restored with different numbers for `--bump-revision`."""
_SILENCE_S = 4.0
"""How long there must be no candidacy. A running masterd would write one within this time: it tries several times a
second."""
_REPORTS_S = 6.0
"""A masterd requests a new lease, if it lost the one before, and writes its candidacy within this time."""
_LEASE_MAX_S = 300.0
_SLACK_S = 5.0
"""How much longer a lease may live than its TTL: a new leader of etcd extends it."""
_POLL_S = 0.5
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Restored:
    """The state of the store, read at one revision."""

    epoch: KV | None
    record: Epoch | None
    """The present epoch; None if the key was deleted or is unreadable, or if etcd is empty."""
    leader: KV | None
    head: Head
    last: Entry | None
    paused: Paused | None
    revision: int
    bumped: int
    led: bool
    """Whether a master has led in this epoch. It then wrote a term's record."""
    candidates: tuple[Candidate, ...] = ()
    epoch_max: int = 0
    """The highest epoch that a key of the store names, or that a daemon reports to remember."""
    has_journal: bool = True
    """Whether the store holds any journal entry or snapshot."""

    @property
    def recovered(self) -> bool:
        """Whether an earlier `nodectl recover` began this epoch and no master has led in it yet: nothing to do.

        If the epoch has an heir, that masterd must still run.
        """
        if self.record is None or not self.record.nonce or self.led or self.bumped >= BUMP_MIN:
            return False
        return not self.record.heir or any(item.nonce == self.record.heir for item in self.candidates)

    @property
    def may_run(self) -> bool:
        """Whether masterds may run during the recovery: without a readable epoch, none of them can lead."""
        return self.record is None or bool(self.record.heir)

    @property
    def heir(self) -> Candidate | None:
        """If `epoch` is missing: the running masterd with the newest state in memory. The new epoch continues from it.

        None if no masterd reports a state, or if the store has an epoch that names no heir.
        """
        if not self.may_run:
            return None
        holders = [item for item in self.candidates if item.store is not None and item.index > 0]
        return max(holders, key=lambda item: (item.store.epoch if item.store else 0, item.index), default=None)


def widest_revision_gap(revisions: Iterable[int], epoch_revision: int, now: int) -> int:
    """The widest gap between neighbouring revisions since the epoch began: by how much a restore raised them.

    Gaps before that come from earlier restores. `now` is the store's current revision.
    """
    later = sorted({epoch_revision, now, *(revision for revision in revisions if revision > epoch_revision)})
    return max((after - before for before, after in pairwise(later)), default=0)


async def read_restored(etcd: Etcd, keys: Keys) -> Restored:
    """Read the state of the store. Raises NotFound if it has no such cluster, and no daemon remembers one."""
    from nodestore.etcd.watch import list_at

    listed = await etcd.range(keys.prefix, keys_only=True, timeout_s=20.0)
    revision = listed.revision
    epoch, leader, head, paused = [
        await etcd.get(key, revision=revision) for key in (keys.epoch, keys.leader, keys.head, keys.paused)
    ]
    record = decode_or_none(Epoch, epoch)
    at = decode_or_none(Head, head) or Head(index=0, nonce="")
    candidates = tuple(_readable(Candidate, (await etcd.range(keys.candidates, revision=revision)).kvs))
    statuses = _readable(Status, (await etcd.range(keys.status, revision=revision)).kvs)
    stores = [*(item.store for item in candidates), *(item.store for item in statuses)]
    marks = [store.epoch for store in stores if store is not None]
    has_journal = any(kv.key.startswith((keys.journal, keys.snapshots)) for kv in listed.kvs)
    if record is None and not marks and not has_journal:
        raise NotFound(
            f"there is no cluster {keys.cluster!r} in this etcd: check --cluster, and that the backup was restored"
        )
    entry = await etcd.get(keys.entry(at.index), revision=revision) if at.index else None
    terms = await list_at(etcd, keys.terms, end=prefix_end(keys.terms), revision=revision)
    return Restored(
        epoch, record, leader, at, decode_or_none(Entry, entry), decode_or_none(Paused, paused), revision,
        widest_revision_gap((kv.mod_revision for kv in listed.kvs), epoch.mod_revision if epoch else 0, revision),
        record is not None and any(_epoch_of(kv) == record.epoch for kv in terms.kvs), candidates,
        max([record.epoch if record else 0, *marks, *(_epoch_of(kv) for kv in terms.kvs)]), has_journal,
    )  # fmt: skip


def _readable(model: type[M], kvs: Iterable[KV]) -> list[M]:
    return [item for item in (decode_or_none(model, kv) for kv in kvs) if item is not None]


def _epoch_of(kv: KV) -> int:
    try:
        return decode(TermRecord, kv.value, kv.key).epoch
    except Garbage:
        return 0


async def check_members(etcd: Etcd) -> list[str]:
    """Check that all members belong to one etcd cluster and were restored alike. Returns warnings.

    Raises Conflict otherwise: a member that was restored differently would serve different data, unnoticed.
    """
    from nodestore.etcd import maintenance

    members = await maintenance.members(etcd)
    known = {member.id for member in members}
    revisions: dict[str, int] = {}
    warnings = []
    for endpoint in etcd.settings.endpoints:
        try:
            status = await maintenance.status(etcd, endpoint)
        except NodectlError as error:
            warnings.append(f"etcd member {endpoint} was not checked: {error}")
            continue
        if status.member not in known:
            raise Conflict(
                f"{endpoint} is a member of another etcd cluster than {etcd.endpoint}: "
                "stop it, move its data away, and restore the backup there too"
            )
        revisions[endpoint] = status.revision
    if revisions and max(revisions.values()) - min(revisions.values()) > _APART_MAX:
        listed = ", ".join(f"{endpoint} is at {revision}" for endpoint, revision in revisions.items())
        raise Conflict(
            f"the members were restored with different numbers for --bump-revision ({listed}): "
            "stop them all and restore the backup on each with the same number"
        )
    return warnings


async def wait_for_reports(show: Callable[[str], None]) -> None:
    """Wait until every running program has noticed that keys were deleted, and has reported what it remembers."""
    show("waiting until the running programs have reported which state they hold")
    await asyncio.sleep(_REPORTS_S)


async def wait_for_silence(etcd: Etcd, keys: Keys, show: Callable[[str], None]) -> None:
    """Wait until, for 4 s, there is no candidacy and no `leader` with a lease. Raises Conflict if a masterd runs.

    A backup contains the candidacies of its time, and their leases start anew with the restore. They are waited out. A
    key that still exists after its lease should have expired, or is written again, belongs to a running masterd.
    """
    known: dict[str, tuple[int, float]] = {}  # by key: its mod_revision, and when it must have expired
    quiet_since = time.monotonic()
    while True:
        candidacies = await _live_candidacies(etcd, keys)
        now = time.monotonic()
        for kv in candidacies:
            if kv.key not in known:
                seconds, _ = await etcd.lease_keys(kv.lease)
                known[kv.key] = (kv.mod_revision, now + min(max(seconds, 0), _LEASE_MAX_S) + _SLACK_S)
            revision, expired_by = known[kv.key]
            if revision != kv.mod_revision or now > expired_by:
                raise Conflict(
                    f"{_describe_holder(kv, keys)} still runs: stop masterd on every PC, then run this again"
                )
            show(
                f"waiting up to {expired_by - now:.0f} s until the lease of {_describe_holder(kv, keys)}, "
                "which is in the backup, expires"
            )
        if candidacies:
            quiet_since = now
        elif now - quiet_since >= _SILENCE_S:
            return
        await asyncio.sleep(_POLL_S)


async def _live_candidacies(etcd: Etcd, keys: Keys) -> list[KV]:
    """All candidacies, and `leader` if it has a lease; without one no running masterd can hold it."""
    candidates, leader = await etcd.range(keys.candidates), await etcd.get(keys.leader)
    return [*candidates.kvs, *([leader] if leader is not None and leader.lease else [])]


def _describe_holder(kv: KV, keys: Keys) -> str:
    if kv.key == keys.leader:
        return "the leader"
    try:
        candidate = decode(Candidate, kv.value, kv.key)
    except Garbage:
        return kv.key.removeprefix(keys.prefix)
    return f"master {candidate.id} on {candidate.host}"


async def begin_epoch(etcd: Etcd, keys: Keys, found: Restored, actor: str) -> Epoch:
    """Delete `leader` and increase the epoch, in one transaction. Raises Conflict if the store has changed."""
    from nodestore.etcd.session import cmp_mod, op_delete, op_get, op_put
    from nodestore.etcd.types import cmp_empty_range

    heir = found.heir
    record = Epoch(
        epoch=found.epoch_max + 1, since=time.time(), actor=actor, nonce=secrets.token_hex(8), bumped=found.bumped,
        index=heir.index if heir else found.head.index, heir=heir.nonce if heir else "",
    )  # fmt: skip
    compares = [
        cmp_mod(keys.epoch, found.epoch.mod_revision if found.epoch else 0),
        cmp_mod(keys.leader, found.leader.mod_revision if found.leader else 0),
    ]
    if not found.may_run:
        compares.append(cmp_empty_range(keys.candidates, prefix_end(keys.candidates)))
    then = [op_delete(keys.leader), op_put(keys.epoch, record.encode())]
    unknown: OutcomeUnknown | None = None
    for _ in range(_ATTEMPTS):
        try:
            result = await etcd.txn(compares, then, [op_get(keys.epoch)], repeatable=True)
        except OutcomeUnknown as error:
            unknown = error
            continue
        now = None if result.succeeded else result.range(0).first
        if result.succeeded or (now is not None and decode(Epoch, now.value, now.key).nonce == record.nonce):
            return record
        raise Conflict("a master was started, or another recovery ran, in the meantime: run this again")
    raise unknown or Unavailable("etcd does not answer")
