"""The model's world: a store, two masterds, what is on its way between them, and what clients have sent. Pure data.

Everything is tuples of numbers and tuples, so that worlds are hashed and compared as they are. What the model leaves
out, and why that hides nothing it is asked about, is in `model.py`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

Batch = tuple[int, ...]
"""Commands of one commit, by number. An empty one only moves `head`. `CLOSES` and above: the record that closes the id
of a command."""
Nonce = tuple[int, int, Batch]
"""Of a commit: its term, the `head` it compares, its commands. Two commits that differ in none of these are copies."""


CLOSES: Final = 100


class Takeover(NamedTuple):
    """`cluster.election.takeover`: compares `leader` as seen, the epoch, and that `terms/<nonce>` is absent. On mere
    suspicion
    it rests on a challenge, by its nonce, and compares that the answer is the one (`answer`, its mod_revision) that
    stood there when the challenge was put; 0 and 0 on any other ground."""

    kind: str
    nonce: int
    seen: int
    epoch: int
    challenge: int = 0
    answer: int = 0


class Commit(NamedTuple):
    """`term.journal.Journal._send`: entry and head. never: its callers were told that no copy has landed or ever
    will."""

    kind: str
    term: int
    epoch: int
    head: int
    last: int
    batch: Batch
    never: bool = False

    @property
    def nonce(self) -> Nonce:
        return (self.term, self.head, self.batch)


class Resign(NamedTuple):
    """`cluster.election.resign`: deletes `leader` if it is still of this term."""

    kind: str
    term: int


class Snapshot(NamedTuple):
    """An image of the state: the commands that made it, those of which the ids are in it, and whether it is whole."""

    log: Batch
    ids_from: int
    whole: bool = True


class Write(NamedTuple):
    """`replication.snapshots.Snapshots.write`: the manifest, with which a snapshot becomes one."""

    kind: str
    term: int
    epoch: int
    image: Snapshot


class Truncate(NamedTuple):
    """`term.retention.JournalRetention._delete_entries`, and `_delete_snapshots` of those that nothing needs any
    more."""

    kind: str
    term: int
    epoch: int
    up_to: int
    drop: tuple[Snapshot, ...]


class Answer(NamedTuple):
    """`term.challenge_responder.ChallengeResponder._answer`: the echo of a challenge, by its nonce."""

    kind: str
    term: int
    epoch: int
    challenge: int


Txn = Takeover | Commit | Resign | Write | Truncate | Answer


class Store(NamedTuple):
    """etcd. `leader`: mod_revision and nonce, zeros when absent. `head`: mod_revision, index and nonce.
    `terms`: the nonces that have a record. `journal`: (last index, commands), in order. `snapshots`: oldest first."""

    leader: tuple[int, int] = (0, 0)
    head: tuple[int, int, Nonce] = (0, 0, (0, 0, ()))
    terms: tuple[int, ...] = ()
    epoch: int = 1
    journal: tuple[tuple[int, Batch], ...] = ()
    snapshots: tuple[Snapshot, ...] = ()


STANDBY: Final = 0
WON: Final = 1
LEADING: Final = 2


class Masterd(NamedTuple):
    """One masterd. `log` is its replica: the commands that it has applied; `ids_from`: those of which it knows the ids;
    `epoch`: the incarnation of the store that they are from.

    attempts: nonces of takeovers whose outcome it may still have to learn. asked: the takeover that it is sending.
    term to reached: its fence, and the `head` that its journal is at, with the index there.
    commit: what it is committing. sent: a copy of that may be on its way. causing: what an empty commit is to stop.
    prepared: the epoch that it has read ahead of its next takeover, 0: none; below 0: one that has been refuted.
    doubts: whether its newest challenge is one that it may yet take over on.

    challenges, answer and noted are the store's rather than its own, here because masterds change places: of all that
    it has put under `challenges/<id>`, (term, nonce); mod_revision and nonce of what stands under `answers/<id>`; and
    that mod_revision as it was when the newest challenge was put.
    """

    role: int = STANDBY
    log: Batch = ()
    ids_from: int = 0
    epoch: int = 0
    attempts: tuple[int, ...] = ()
    asked: tuple[()] | Takeover = ()
    term: int = 0
    term_epoch: int = 0
    head: int = 0
    reached: int = 0
    commit: tuple[()] | Commit = ()
    sent: bool = False
    causing: tuple[()] | Commit = ()
    prepared: int = 0
    doubts: bool = False
    challenges: tuple[tuple[int, int], ...] = ()
    answer: tuple[int, int] = (0, 0)
    noted: int = 0


class Bounds(NamedTuple):
    """How much of everything may happen: the search is complete within these.

    late: transactions of which a copy stays on its way, to land at any time, or never. sends: of each command, the
    first included. kept: ids remembered (masterd: an hour and 10,000). tail: entries that a takeover brings along.
    prepares: whether the epoch is read ahead of takeovers, at any time (1), or with each (0).
    """

    commands: int = 2
    sends: int = 2
    batch: int = 1
    kept: int = 9
    tail: int = 1
    takeovers: int = 2
    late: int = 2
    refusals: int = 0
    expiries: int = 1
    resignations: int = 0
    crashes: int = 0
    lease_losses: int = 0
    snapshots: int = 0
    truncations: int = 0
    damages: int = 0
    restores: int = 0
    challenges: int = 0
    questions: int = 0
    prepares: int = 0


class Left(NamedTuple):
    """What of the bounds has not been used yet."""

    takeovers: int
    late: int
    refusals: int
    expiries: int
    resignations: int
    crashes: int
    lease_losses: int
    snapshots: int
    truncations: int
    damages: int
    restores: int
    challenges: int
    questions: int


NOT_SENT: Final = -1


class World(NamedTuple):
    """Everything, at one moment. `clients`: of each command its `after` and how often it may still be sent.

    history, by and newest are nobody's: what has taken effect, in order, the terms that did it, and the newest term.
    closed: the commands of which a client was answered that they have not taken effect, and never will.
    They are there to judge by. wrong: what is broken; the search ends there.
    """

    store: Store
    revision: int
    masterds: tuple[Masterd, Masterd]
    late: tuple[Txn, ...]
    clients: tuple[tuple[int, int], ...]
    left: Left
    backup: tuple[()] | tuple[Store, Batch, Batch]
    history: Batch
    by: Batch
    newest: tuple[int, int]
    closed: Batch = ()
    wrong: str = ""


def beginning(bounds: Bounds) -> World:
    """An empty store and two masterds that have just started."""
    left = Left(*(getattr(bounds, name) for name in Left._fields))
    clients = ((NOT_SENT, bounds.sends),) * bounds.commands
    return World(Store(), 0, (Masterd(), Masterd()), (), clients, left, (), (), (), (0, 0))
