"""After a backup was restored: a new epoch, so that nothing of the lost past is taken for the present.

What could go wrong without it: a master that was paused through the restore writes under its old term; a node obeys
no order of the restored store, because it has obeyed later ones. A new epoch is above every term and every order of
the old one, and every fence compares it.

That holds as long as revisions are not used twice, which only the restore itself can see to (`--bump-revision`). It
shows as a gap: no key of ours was written at any revision between those in the backup and those after the restore.
Every step but the last only looks. The last is one transaction that compares what was seen, so this may be
interrupted anywhere and run again.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from nodestore.errors import Conflict, Garbage, NodectlError, NotFound, OutcomeUnknown, Unavailable
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Candidate, Entry, Epoch, Head, Paused, TermRecord, decode

if TYPE_CHECKING:
    from nodestore.etcd.session import KV, Etcd

BUMP_MIN = 1_000_000_000
"""What a restore must raise the revision by: more than a store writes between any backup and its loss. At 5,000 writes
a second, two days; at what a wall of PCs does, years."""
_APART_MAX = 1_000_000
_SILENCE_S = 4.0
"""A masterd that runs announces itself sooner: it tries for a lease several times a second."""
_LEASE_MAX_S = 300.0
_SLACK_S = 5.0
"""A lease lives on a little longer where etcd's leader has changed."""
_POLL_S = 0.5
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Restored:
    """The store as it was found, all at one revision."""

    epoch: KV
    record: Epoch
    leader: KV | None
    head: Head
    last: Entry | None
    paused: Paused | None
    revision: int
    bumped: int
    led: bool
    """Whether a master has led in this epoch."""

    @property
    def recovered(self) -> bool:
        """`nodectl recover` has made this epoch, and nobody has led in it since: it only asks to be used."""
        return bool(self.record.nonce) and not self.led and self.bumped < BUMP_MIN


def widest_revision_gap(revisions: Iterable[int], epoch_revision: int, now: int) -> int:
    """The widest gap between neighbouring revisions since the epoch began: what the revision was raised by. Older
    gaps are those of earlier restores."""
    later = sorted({epoch_revision, now, *(revision for revision in revisions if revision > epoch_revision)})
    return max((after - before for before, after in pairwise(later)), default=0)


async def read_restored(etcd: Etcd, keys: Keys) -> Restored:
    """What there is. NotFound when there is no such cluster; Garbage when what counts is not readable."""
    from nodestore.etcd.watch import list_at

    listed = await etcd.range(keys.prefix, keys_only=True, timeout_s=20.0)
    revision = listed.revision
    epoch, leader, head, paused = [
        await etcd.get(key, revision=revision) for key in (keys.epoch, keys.leader, keys.head, keys.paused)
    ]
    if epoch is None:
        raise NotFound(
            f"there is no cluster {keys.cluster!r} in this etcd: is --cluster right, and has the backup been restored?"
        )
    record = decode(Epoch, epoch.value, epoch.key)
    at = decode(Head, head.value, head.key) if head else Head(index=0, nonce="")
    entry = await etcd.get(keys.entry(at.index), revision=revision) if at.index else None
    terms = await list_at(etcd, keys.terms, end=prefix_end(keys.terms), revision=revision)
    return Restored(
        epoch, record, leader, at, None if entry is None else decode(Entry, entry.value, entry.key),
        None if paused is None else decode(Paused, paused.value, paused.key), revision,
        widest_revision_gap((kv.mod_revision for kv in listed.kvs), epoch.mod_revision, revision),
        any(_epoch_of(kv) == record.epoch for kv in terms.kvs),
    )  # fmt: skip


def _epoch_of(kv: KV) -> int:
    try:
        return decode(TermRecord, kv.value, kv.key).epoch
    except Garbage:
        return 0


async def check_members(etcd: Etcd) -> list[str]:
    """What is wrong with the members beside each other; Conflict when it must not stay so: one that was restored
    otherwise than the rest would serve other data than the rest, without anybody noticing."""
    members = await etcd.members()
    known = {member.id for member in members}
    revisions: dict[str, int] = {}
    warnings = []
    for endpoint in etcd.settings.endpoints:
        try:
            status = await etcd.status(endpoint)
        except NodectlError as error:
            warnings.append(f"etcd member {endpoint} could not be looked at: {error}")
            continue
        if status.member not in known:
            raise Conflict(
                f"{endpoint} is a member of another etcd cluster than {etcd.endpoint}: "
                "stop it, delete its data, and restore the backup there too"
            )
        revisions[endpoint] = status.revision
    if revisions and max(revisions.values()) - min(revisions.values()) > _APART_MAX:
        told = ", ".join(f"{endpoint} is at {revision}" for endpoint, revision in revisions.items())
        raise Conflict(
            f"the members were restored with different numbers for --bump-revision ({told}): "
            "stop them all and restore the backup on each with the same number"
        )
    return warnings


async def wait_for_silence(etcd: Etcd, keys: Keys, show: Callable[[str], None]) -> None:
    """Until no masterd has a candidacy, nor any `leader` a lease, and for a while after. Conflict when one lives.

    A backup holds the candidacies of its time, and restored leases run anew: they are waited out. What outlives its
    lease, or is written again, is somebody's who lives.
    """
    seen: dict[str, tuple[int, float]] = {}  # by key: its mod_revision, and when it must be gone
    quiet_since = time.monotonic()
    while True:
        standing = await _live_candidacies(etcd, keys)
        now = time.monotonic()
        for kv in standing:
            if kv.key not in seen:
                seconds, _ = await etcd.lease_keys(kv.lease)
                seen[kv.key] = (kv.mod_revision, now + min(max(seconds, 0), _LEASE_MAX_S) + _SLACK_S)
            revision, gone_by = seen[kv.key]
            if revision != kv.mod_revision or now > gone_by:
                raise Conflict(
                    f"{_describe_holder(kv, keys)} still runs: stop masterd on every PC, then run this again"
                )
            show(
                f"waiting up to {gone_by - now:.0f} s for what the backup has of "
                f"{_describe_holder(kv, keys)} to run out"
            )
        if standing:
            quiet_since = now
        elif now - quiet_since >= _SILENCE_S:
            return
        await asyncio.sleep(_POLL_S)


async def _live_candidacies(etcd: Etcd, keys: Keys) -> list[KV]:
    """Candidacies, and a `leader` that hangs on a lease; without one it is nobody's."""
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
    """Deletes `leader` and counts the epoch up, in one transaction. Conflict when something has changed since."""
    from nodestore.etcd.session import cmp_mod, op_delete, op_get, op_put
    from nodestore.etcd.types import cmp_empty_range

    record = Epoch(
        epoch=found.record.epoch + 1, since=time.time(), actor=actor, nonce=secrets.token_hex(8), bumped=found.bumped,
        index=found.head.index,
    )  # fmt: skip
    compares = [
        cmp_mod(keys.epoch, found.epoch.mod_revision),
        cmp_mod(keys.leader, found.leader.mod_revision if found.leader else 0),
        cmp_empty_range(keys.candidates, prefix_end(keys.candidates)),
    ]
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
        raise Conflict("a master has started, or somebody else has recovered, meanwhile: run this again")
    raise unknown or Unavailable("etcd does not answer")
