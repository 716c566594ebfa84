"""What etcd does with each transaction, and the judge: what must be true of the store whenever it has changed.

A rule that is named in `without` is taken out: that compare is not sent.
"""

from __future__ import annotations

from tests.model.world import (
    Answer,
    Batch,
    Commit,
    Masterd,
    Resign,
    Snapshot,
    Store,
    Takeover,
    Truncate,
    Txn,
    World,
    Write,
)

Without = frozenset[str]
"""Rules that are taken out; by their names in `RULES`."""

RULES = {
    "takeover compares leader": "cluster.election.takeover",
    "takeover compares epoch": "cluster.election.takeover",
    "takeover compares terms/<nonce>": "cluster.election.takeover",
    "commit compares leader": "cluster.election.Fence.compares",
    "commit compares epoch": "cluster.election.Fence.compares",
    "commit compares head": "term.journal.Journal._send",
    "housekeeping compares leader": "term.retention.JournalRetention._delete, replication.snapshots.Snapshots._fenced, "
    "replication.snapshots.Snapshots._put_manifest",
    "resignation compares leader": "cluster.election.resign",
    "deduplication": "state_machine.batch.Batch._earlier_outcome",
    "a command below the floor is refused": "state_machine.batch.Batch._earlier_outcome",
    "an id is closed by an entry": "state_machine.batch.Batch._close_id",
    "a closed id is refused": "state_machine.batch._check_same",
    "giving up moves head": "term.journal.Journal._give_up",
    "head's nonce is looked at": "term.journal.Journal._fate",
    "a moved head leaves it unknown": "term.journal.Journal._fate",
    "answers follow the commit": "term.batch_runner.BatchRunner._commit_outcomes",
    "a winner catches up to head": "replication.replica.Replica.apply_takeover",
    "a replica belongs to one epoch": "replication.replica.Replica._enter_epoch",
    "a term is claimed once": "election.campaign.Campaign.win",
    "a repeat is answered after a confirmation": "term.batch_runner.BatchRunner._commit_outcomes",
    "truncation stops at the older of two snapshots": "term.retention.JournalRetention.truncate_and_prune",
    "truncation stops at the ids' floor": "term.retention.JournalRetention._truncate",
    "snapshots hold the ids": "replication.images.encode_image",
    "recovery deletes leader": "nodectl recover",
    "a suspicion compares the answer": "election.leader_watch.LeaderWatch.takeover_reason",
    "an answer compares leader": "term.challenge_responder.ChallengeResponder._answer",
    "an answer is to a challenge of its term": "term.challenge_responder.ChallengeResponder._answer",
    "who loses reads the epoch anew": "election.campaign.Campaign._attempt_takeover",
}
"""Each rule, and where it is kept."""


def land(world: World, txn: Txn, without: Without, kept: int) -> tuple[World, bool]:
    """The world after a copy of `txn` was carried out, and whether its compares held."""
    landed, done = _landed(world, txn, without)
    return (judged(landed, kept), True) if done else (world, False)


def _landed(world: World, txn: Txn, without: Without) -> tuple[World, bool]:
    match txn:
        case Takeover():
            return _takeover(world, txn, without)
        case Commit():
            return _commit(world, txn, without)
        case Resign():
            return _resign(world, txn, without)
        case Write():
            return _write(world, txn, without)
        case Truncate():
            return _truncate(world, txn, without)
        case Answer():
            return _answer(world, txn, without)


def _takeover(world: World, txn: Takeover, without: Without) -> tuple[World, bool]:
    store = world.store
    if (
        (store.leader[0] != txn.seen and "takeover compares leader" not in without)
        or (store.epoch != txn.epoch and "takeover compares epoch" not in without)
        or (txn.nonce in store.terms and "takeover compares terms/<nonce>" not in without)
    ):
        return world, False
    answer = world.masterds[_who_put(world.masterds, txn.challenge)].answer if txn.challenge else (0, 0)
    if answer[0] != txn.answer and "a suspicion compares the answer" not in without:
        return world, False
    revision, wrong = world.revision + 1, world.wrong
    if txn.challenge and answer[1] == txn.challenge:
        wrong = f"takeover {txn.nonce} replaces a leader that has answered: needlessly"
    if txn.nonce in store.terms:
        wrong = f"attempt {txn.nonce} wins a second term: its record in the history is written over"
    if store.leader[0] != txn.seen:
        wrong = f"takeover {txn.nonce} says in the history that it took over from {_term(txn.seen)}: it was another"
    if (txn.epoch, revision) <= world.newest:
        wrong = f"term {txn.epoch}.{revision} is won after {world.newest[0]}.{world.newest[1]}: terms go back"
    terms = store.terms if txn.nonce in store.terms else (*store.terms, txn.nonce)
    store = store._replace(leader=(revision, txn.nonce), terms=terms)
    return world._replace(store=store, revision=revision, newest=(txn.epoch, revision), wrong=wrong), True


def _who_put(masterds: tuple[Masterd, Masterd], challenge: int) -> int:
    return next(number for number, me in enumerate(masterds) if challenge in (nonce for _, nonce in me.challenges))


def _answer(world: World, txn: Answer, without: Without) -> tuple[World, bool]:
    if not _fenced(world, txn.term, txn.epoch, "an answer compares leader" not in without, True):
        return world, False
    number, revision = _who_put(world.masterds, txn.challenge), world.revision + 1
    one, two = world.masterds
    asker = world.masterds[number]._replace(answer=(revision, txn.challenge))
    masterds = (asker, two) if number == 0 else (one, asker)
    wrong = _late_write(world, txn.term, "an answer")
    return world._replace(masterds=masterds, revision=revision, wrong=wrong), True


def _term(revision: int) -> str:
    return f"term {revision}" if revision else "nobody"


def _fenced(world: World, term: int, epoch: int, leader: bool, epoch_too: bool) -> bool:
    """`cluster.election.Fence.compares`, as far as they are sent."""
    return (not leader or world.store.leader[0] == term) and (not epoch_too or world.store.epoch == epoch)


def _commit(world: World, txn: Commit, without: Without) -> tuple[World, bool]:
    store = world.store
    leader, epoch = "commit compares leader" not in without, "commit compares epoch" not in without
    if not _fenced(world, txn.term, txn.epoch, leader, epoch) or (
        store.head[0] != txn.head and "commit compares head" not in without
    ):
        return world, False
    revision = world.revision + 1
    journal = store.journal
    if txn.batch:
        rest = tuple(entry for entry in journal if entry[0] != txn.last)
        journal = tuple(sorted((*rest, (txn.last, txn.batch))))
    store = store._replace(head=(revision, txn.last, txn.nonce), journal=journal)
    history, by = world.history + txn.batch, world.by + (txn.term,) * len(txn.batch)
    wrong = _wrong_commit(world, txn)
    return world._replace(store=store, revision=revision, history=history, by=by, wrong=wrong), True


def _wrong_commit(world: World, txn: Commit) -> str:
    if txn.never:
        return "a commit lands after its callers were told that it never will"
    if wrong := _late_write(world, txn.term, "a commit"):
        return wrong
    if txn.last - len(txn.batch) != len(world.history):
        return f"head goes to {txn.last} with {len(txn.batch)} new, but {len(world.history)} were committed: a fork"
    if late := [command for command in txn.batch if command in world.closed]:
        return f"command {late[0] + 1} takes effect, and was reported as never"
    twice = [command for command in txn.batch if command in world.history]
    return f"command {twice[0] + 1} takes effect twice" if twice else ""


def _late_write(world: World, term: int, what: str) -> str:
    return f"{what} of term {term} lands in term {world.newest[1]}" if world.newest[1] > term else ""


def _resign(world: World, txn: Resign, without: Without) -> tuple[World, bool]:
    now = world.store.leader[0]
    if now != txn.term and (now == 0 or "resignation compares leader" not in without):
        return world, False
    wrong = "" if now == txn.term else f"the resignation of term {txn.term} ends term {now}"
    return world._replace(store=world.store._replace(leader=(0, 0)), wrong=wrong), True


def _write(world: World, txn: Write, without: Without) -> tuple[World, bool]:
    if not _fenced(world, txn.term, txn.epoch, "housekeeping compares leader" not in without, True):
        return world, False
    snapshots = tuple(sorted({*world.store.snapshots, txn.image}, key=lambda image: (len(image.log), image)))
    wrong = _late_write(world, txn.term, "a snapshot")
    return world._replace(store=world.store._replace(snapshots=snapshots), wrong=wrong), True


def _truncate(world: World, txn: Truncate, without: Without) -> tuple[World, bool]:
    if not _fenced(world, txn.term, txn.epoch, "housekeeping compares leader" not in without, True):
        return world, False
    journal = tuple(entry for entry in world.store.journal if entry[0] > txn.up_to)
    snapshots = tuple(image for image in world.store.snapshots if image not in txn.drop)
    wrong = _late_write(world, txn.term, "a truncation")
    return world._replace(store=world.store._replace(journal=journal, snapshots=snapshots), wrong=wrong), True


# --- the judge ------------------------------------------------------------------------------------------------------


def judged(world: World, kept: int) -> World:
    """A masterd that starts now must find every committed command, and every id that must still be known."""
    if world.wrong:
        return world
    found = caught_up(world.store, (), 0, kept)
    if found is None:
        return world._replace(wrong="nobody can start any more: journal and snapshots do not reach head")
    log, ids_from = found
    if log != world.history:
        return world._replace(wrong=f"whoever starts now finds {log}, not {world.history}")
    if ids_from > max(0, len(log) - kept):
        return world._replace(wrong=f"whoever starts now knows no ids before index {ids_from + 1}, which must be known")
    return world


def caught_up(store: Store, log: Batch, ids_from: int, kept: int) -> tuple[Batch, int] | None:
    """`replication.replica.Replica.catch_up`: the replica that has read all there is; None: Garbage. Across a gap it
    loads the
    newest readable snapshot."""
    applied = _applied(store, log, ids_from, kept)
    if applied is None:
        image = next((one for one in reversed(store.snapshots) if one.whole), None)
        if image is None or len(image.log) <= len(log):
            return None
        applied = _applied(store, image.log, image.ids_from, kept)
    return applied


def _applied(store: Store, log: Batch, ids_from: int, kept: int) -> tuple[Batch, int] | None:
    """`state_machine.state.State.apply` of each entry beyond the log; None at a gap, or when that does not end at
    `head`."""
    for last, batch in store.journal:
        if last <= len(log):
            continue
        if last - len(batch) != len(log):
            return None
        log += batch
        ids_from = max(ids_from, len(log) - kept)
    return (log, ids_from) if len(log) == store.head[1] else None


def best_snapshots(store: Store) -> list[Snapshot]:
    """`term.retention.JournalRetention._two_verified`: those that were read back whole, newest first."""
    return [image for image in reversed(store.snapshots) if image.whole]
