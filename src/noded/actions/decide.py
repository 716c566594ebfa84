"""Decides which one-shot action to start and what to write into `acted/<node>`, from the keys in etcd and from what
this process has done. Pure.

An action starts at most once, whichever process dies at whatever time. A *start record* is the record of an action as
`started`; it is written before the action runs. Every write is one transaction that compares `alive/<node>` (our
claim), `epoch`, `actions/<node>` and `acted/<node>` with one linearizable read:

* noded dies before the start record: the action has not started, the next noded starts it. noded dies after the start
  record, before the action runs, while it runs or before its result is written: the next noded finds `started` with
  another nonce and writes `lost`; a reboot is `done` if the same PC has another boot id.
* The answer of etcd to the write of the start record is lost: if the next read shows the start record, with our nonce,
  the action runs. If the write is still on its way at that read, noded writes the start record again. Both writes
  compare the same revision of `acted`, so only one of them succeeds, and the read after that shows the start record.
* The action expires before the start record is written: noded and the leader each compare the key that the other
  changes. The start record changes `acted` and compares `actions`; the leader's commit changes `actions` and compares
  `acted`. So either the start is recorded or the action expires. An action whose start is recorded runs to its end,
  even if the leader is deposed. If the action leaves `actions` meanwhile, its result is dropped.
* Another host or noded claims the node while the action runs: `alive` differs, so our result is not written; the other
  one writes `lost`.
* etcd is unreachable when the action ends: the result stays in memory until it is written. If noded is killed before
  that, the next noded writes `lost`.
* The store was restored from a backup: an action of another epoch is not started, and the leader closes it. Results of
  another epoch are dropped. `Acted.floor`, the highest index whose action has started, is kept.
* `actions` or `epoch` is not readable: nothing is started or dropped until a leader has repaired it. `acted` is not
  readable: which actions have started is unknown, so every pending one becomes `lost`. Actions requested later have
  higher indexes and are started. If a newer program wrote one of the keys, nothing is started until noded is upgraded.
* `acted` is deleted while noded runs: noded remembers the actions that it has started itself.
* The work directory holds no part of this, so it may be deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from noded.drivers.contract import OWN_ACTIONS
from nodestore.schema.models import Acted, Action, ActionResult, Actions, ActionState
from nodestore.support.jsonio import Json

RESTART, REBOOT = OWN_ACTIONS

ACTED_BYTES_MAX = 1 << 20
LOST = "noded ended while the action ran: whether it took effect is not known"
_RECORD_LOST = "the node's record of started actions was lost: whether this action took effect is not known"


@dataclass(frozen=True)
class Garbled:
    """A key whose value is not readable. newer: a newer program wrote it."""

    problem: str
    newer: bool = False


@dataclass(frozen=True)
class ActionKeys:
    """The values of three keys from one read; None: absent."""

    epoch: int | Garbled | None
    view: Actions | Garbled | None
    acted: Acted | Garbled | None


@dataclass(frozen=True)
class ActionOutcome:
    """The result of an action. error: one sentence for the operator."""

    state: ActionState
    result: Json = None
    error: str | None = None


@dataclass(frozen=True)
class ActionMemory:
    """What this process has done. sent: the action whose start record was last sent. begun: epoch and index of the
    newest action that it has started. running: the record of that action until it ends. ended: its result until the
    next action."""

    sent: Action | None = None
    begun: tuple[int, int] = (0, 0)
    running: ActionResult | None = None
    ended: ActionResult | None = None

    def floor(self, epoch: int) -> int:
        """Return the highest index of that epoch whose action this process has started, 0 for none."""
        return self.begun[1] if self.begun[0] == epoch else 0


@dataclass(frozen=True)
class Writer:
    """Identity of the process that writes `acted`. boot: see `noded.actions.boot.boot_record`. rebooted: whether the
    PC has rebooted since the given boot record."""

    node: str
    nonce: str
    boot: str
    rebooted: Callable[[str], bool]


@dataclass(frozen=True)
class Wait:
    """No step is due. problem: the error because of which no action can start; None if there is none."""

    problem: str | None = None


@dataclass(frozen=True)
class Write:
    """Write `acted`; no action starts."""

    acted: Acted


@dataclass(frozen=True)
class Begin:
    """Write `acted`, which records the start of the action. Run the action if that write succeeds."""

    action: Action
    acted: Acted
    start: ActionResult


@dataclass(frozen=True)
class Run:
    """The start record was written although its answer was lost: run the action."""

    action: Action
    start: ActionResult


Step = Wait | Write | Begin | Run


def decide(keys: ActionKeys, memory: ActionMemory, me: Writer, now: float) -> Step:
    """Return the next step. now: seconds since the Unix epoch, written into records but never compared."""
    epoch, view, old = keys.epoch, keys.view, keys.acted
    if not isinstance(epoch, int):
        return Wait(epoch.problem if epoch is not None else None)  # absent: no masterd has ever led
    pending = _pending(view, epoch)
    if isinstance(old, Garbled) and (pending is None or old.newer):
        return Wait(old.problem)
    base = _base(old, me.node, epoch, pending)
    for result in base.results:
        if _is_unused_start(result, memory, me, epoch) and memory.sent is not None:
            return Run(memory.sent, result)
    acted = _updated(base, memory, me, epoch, pending, now)
    if acted != base or isinstance(old, Garbled):
        return Write(acted)
    if isinstance(view, Garbled):
        return Wait(view.problem)
    startable = [action for action in pending or () if action.index > acted.floor]
    if not startable or memory.running is not None:
        return Wait()
    action = startable[0]
    start = _started(action, me, now)
    results = (*acted.results, start)
    return Begin(action, acted.model_copy(update={"floor": action.index, "results": results}), start)


def _started(action: Action, me: Writer, now: float) -> ActionResult:
    return ActionResult(
        index=action.index, name=action.name, state="started", nonce=me.nonce, boot=me.boot, started=round(now, 3)
    )


def ended(result: ActionResult, outcome: ActionOutcome, now: float) -> ActionResult:
    """Return the record `result` with the outcome of the action."""
    return result.model_copy(
        update={
            "state": outcome.state,
            "result": outcome.result,
            "error": outcome.error,
            "ended": round(now, 3),
        }
    )


def _pending(view: Actions | Garbled | None, epoch: int) -> tuple[Action, ...] | None:
    """Return the pending actions, lowest index first. None: unknown, so nothing is started and no result dropped."""
    if view is None:
        return ()
    if isinstance(view, Garbled) or view.epoch != epoch:
        return None
    return tuple(sorted((item for item in view.pending if item.epoch == epoch), key=lambda item: item.index))


def _base(old: Acted | Garbled | None, node: str, epoch: int, pending: tuple[Action, ...] | None) -> Acted:
    """Return the record on which the next value of `acted` is based.

    It is `old` without the results of another epoch. If `old` is not readable, every pending action counts as started.
    """
    if isinstance(old, Garbled):
        return Acted(node=node, epoch=epoch, floor=max((item.index for item in pending or ()), default=0))
    if old is None:
        return Acted(node=node, epoch=epoch)
    return old if old.epoch == epoch else old.model_copy(update={"epoch": epoch, "results": ()})


def _is_unused_start(result: ActionResult, memory: ActionMemory, me: Writer, epoch: int) -> bool:
    """Whether `result` is the start record that we last tried to write and whose action we have not started yet."""
    sent = memory.sent
    ours = result.state == "started" and result.nonce == me.nonce
    return ours and sent is not None and (sent.epoch, sent.index) == (epoch, result.index) > memory.begun


def _updated(
    base: Acted, memory: ActionMemory, me: Writer, epoch: int, pending: tuple[Action, ...] | None, now: float
) -> Acted:
    """Return `base` with the outcomes known now, and without the results of actions that the leader has closed."""
    floor = max(base.floor, memory.floor(epoch))
    pending_indexes = None if pending is None else {item.index for item in pending}
    results = [_with_outcome(result, memory, me, epoch, now) for result in base.results]
    known = {result.index for result in results}
    for action in pending or ():
        if action.index <= floor and action.index not in known:
            record = memory.running or memory.ended
            if record is None or (epoch, action.index) != memory.begun:
                started = _started(action, replace(me, nonce="", boot=""), now)
                record = ended(started, ActionOutcome("lost", error=_RECORD_LOST), now)
            results.append(record)
    kept = [
        item for item in results if item.state == "started" or pending_indexes is None or item.index in pending_indexes
    ]
    return _fitted(base.model_copy(update={"floor": floor, "results": tuple(kept)}))


def _with_outcome(result: ActionResult, memory: ActionMemory, me: Writer, epoch: int, now: float) -> ActionResult:
    """Return `result`, or if it is `started` and its action no longer runs, the record of how the action ended."""
    if result.state != "started":
        return result
    if result.nonce == me.nonce and memory.begun == (epoch, result.index):
        return memory.running or memory.ended or result
    if result.name == REBOOT and me.rebooted(result.boot):
        return ended(result, ActionOutcome("done"), now)
    return ended(result, ActionOutcome("lost", error=LOST), now)


def _fitted(acted: Acted) -> Acted:
    """Omit the results of the oldest actions until `acted` is within its size limit."""
    results = list(acted.results)
    for at, result in enumerate(results):
        if len(acted.encode()) <= ACTED_BYTES_MAX:
            break
        if result.result is not None:
            results[at] = result.model_copy(update={"result": {"omitted": "too many results at once"}})
            acted = acted.model_copy(update={"results": tuple(results)})
    return acted
