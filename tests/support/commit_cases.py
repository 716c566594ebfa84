"""Values of keys that a commit of the journal may find in etcd, and a scripted etcd that answers its transactions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nodestore.cluster.election import Fence
from nodestore.errors import Denied, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import KV, Compare, Op, Range, TxnResult
from nodestore.schema.keys import Keys
from nodestore.schema.models import CommandRecord, Entry, Head, Term, decode

KEYS = Keys("test")
TERM, EPOCH, OLD = 50, 3, 60
"""Revisions: of our `leader`, of `epoch`, and of `head` before the commit."""
FENCE = Fence(Term(1, TERM), EPOCH, "nonce")


def kv(key: str, revision: int, value: bytes = b"{}") -> KV:
    return KV(key, value, 1, revision, 1, 0)


def head(revision: int, nonce: str, index: int = 4) -> KV:
    return kv(KEYS.head, revision, Head(index=index, nonce=nonce).encode())


OURS, ABSENT, OTHER = kv(KEYS.leader, TERM), None, kv(KEYS.leader, TERM + 20)
EPOCH_OURS, EPOCH_OTHER = kv(KEYS.epoch, EPOCH), kv(KEYS.epoch, EPOCH + 90)
UNMOVED, LANDED, MOVED = head(OLD, "before"), head(70, "mine", 5), head(71, "theirs", 6)

DONE = TxnResult(True, 95, ())
OPEN, DOWN, REFUSED = OutcomeUnknown("no answer"), Unavailable("nobody there"), Denied("no permission")

Reply = NodectlError | TxnResult | Callable[[list[Head]], TxnResult]
"""An error, a result, or a function that makes the result from the heads that were sent."""


def ranges(*kvs: KV | None) -> tuple[Range, ...]:
    """The results of a transaction that reads these keys, one for each; None: the key is absent."""
    return tuple(Range(90, () if kv is None else (kv,), False, 0 if kv is None else 1) for kv in kvs)


def failed(leader: KV | None, head_now: KV | None, epoch: KV | None = EPOCH_OURS, entry: KV | None = None) -> TxnResult:
    """The result of a commit whose compares failed, with the keys that its else branch read. entry: at its index."""
    return TxnResult(False, 90, ranges(leader, head_now, epoch, entry))


def entry(revision: int, nonce: str, index: int = 5) -> KV:
    """A journal entry with one command."""
    command = CommandRecord(index=index, id="c", actor="a", time=0.0, name="n")
    return kv(KEYS.entry(index), revision, Entry(epoch=1, term=TERM, nonce=nonce, commands=(command,)).encode())


class ScriptedEtcd:
    """A fake of the etcd calls that a journal makes. Answers the commits with these replies, in order."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.sent: list[Head] = []
        self.head_compared: list[int] = []
        """The revision of `head` that each commit compared."""
        self.entry_compared: list[int | None] = []
        """The revision of its own entry that each commit compared; None: it compared none."""

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], orelse: Sequence[Op] = (), **_: Any
    ) -> TxnResult:
        put = then[0].request_put
        assert put.key == KEYS.head.encode()
        self.sent.append(decode(Head, put.value, "head"))
        self.head_compared.append(next(item.mod_revision for item in compares if item.key == KEYS.head.encode()))
        entries = [item.mod_revision for item in compares if item.key.startswith(KEYS.journal.encode())]
        self.entry_compared.append(entries[0] if entries else None)
        reply = self.replies.pop(0)
        if isinstance(reply, NodectlError):
            raise reply
        return reply if isinstance(reply, TxnResult) else reply(self.sent)
