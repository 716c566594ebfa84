"""Which one-shot action to begin, and what to write into `acted/<node>`: a function of what etcd has and what this
noded has done. Pure.

An action is begun at most once, whoever dies when. Every write is one txn that compares `alive/<node>` (our claim),
`epoch`, `actions/<node>` and `acted/<node>`, all as one linearizable read found them:

* We die before the mark: nobody has begun it; the next noded does. After the mark, before the beginning or while it
  runs, or before the result is written: the next noded finds `started` of another nonce and writes `lost`; a reboot is
  `done` when the same PC has another boot id.
* The mark's answer is lost: if it landed, the next read shows our nonce and the index we meant, and we begin. If it
  lands later than that read, it and its repeat compare the same `acted`: one of them lands, and the next read says so.
* It expires meanwhile: the leader's commit changes `acted` or `actions`, or compares them: one of the two happens.
  Once it is begun, the view may shrink and the leader may fall: the action goes on, and its result has no reader.
* Another host (or noded) takes the node while it runs: `alive` differs, so our result does not land; theirs is `lost`.
* etcd is away when it ends: the result stays in memory until it is written. Killed meanwhile: `lost`.
* A restored store: an action asked for, or a view written, in another epoch is not begun; the leader closes it. Results
  of another epoch are dropped, its floor is kept.
* `actions` or `epoch` is garbage: nothing is begun or forgotten until a leader has put it right. `acted` is garbage:
  what has been begun is not known, so all that pends is passed over as `lost`, and work goes on with newer indexes,
  which only grow. Written by a newer program: nothing is begun until noded has been upgraded.
* `acted` is deleted under a living noded: what this one has begun it remembers.
* The work directory holds nothing of this, so it may be wiped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from noded.drivers.contract import OWN_ACTIONS
from nodestore.schema.models import Acted, Action, ActionResult, Actions, ActionState
from nodestore.support.jsonio import Json

RESTART, REBOOT = OWN_ACTIONS

ACTED_BYTES_MAX = 1 << 20
LOST = "noded ended while it ran: whether it took effect is not known"
_PASSED_OVER = "the node's record of what it has begun is gone: whether it took effect is not known"


@dataclass(frozen=True)
class Garbled:
    """A key that cannot be read. newer: because a newer program wrote it."""

    problem: str
    newer: bool = False


@dataclass(frozen=True)
class ActionKeys:
    """Three keys as one read found them; None: absent."""

    epoch: int | Garbled | None
    view: Actions | Garbled | None
    acted: Acted | Garbled | None


@dataclass(frozen=True)
class ActionOutcome:
    """What came of an action. error: one sentence for the operator."""

    state: ActionState
    result: Json = None
    error: str | None = None


@dataclass(frozen=True)
class ActionMemory:
    """What this noded process has done. `begun`: epoch and index of the newest action it has begun. `running`: that,
    until it has ended; then `ended` is what came of it, until that is written."""

    marked: Action | None = None
    begun: tuple[int, int] = (0, 0)
    running: ActionResult | None = None
    ended: ActionResult | None = None

    def floor(self, epoch: int) -> int:
        """Up to which index this process has begun actions of that epoch."""
        return self.begun[1] if self.begun[0] == epoch else 0


@dataclass(frozen=True)
class Writer:
    """Who writes `acted`. boot: see `noded.actions.boot.boot_record`. rebooted: whether the PC has rebooted since
    then."""

    node: str
    nonce: str
    boot: str
    rebooted: Callable[[str], bool]


@dataclass(frozen=True)
class Wait:
    """Nothing to do. problem: why not, when that is somebody's fault."""

    problem: str | None = None


@dataclass(frozen=True)
class Write:
    """Bring `acted` up to date."""

    acted: Acted


@dataclass(frozen=True)
class Begin:
    """Write `acted`, which marks the action as started; once that has landed, run it."""

    action: Action
    acted: Acted
    mark: ActionResult


@dataclass(frozen=True)
class Run:
    """Our mark, whose answer was lost, has landed: run it."""

    action: Action
    mark: ActionResult


Step = Wait | Write | Begin | Run


def decide(seen: ActionKeys, memory: ActionMemory, me: Writer, now: float) -> Step:
    """The next step. now: seconds since the Unix epoch, for people."""
    epoch, view, found = seen.epoch, seen.view, seen.acted
    if not isinstance(epoch, int):
        return Wait(epoch.problem if epoch is not None else None)  # absent: nobody has ever led
    pending = _pending(view, epoch)
    if isinstance(found, Garbled) and (pending is None or found.newer):
        return Wait(found.problem)
    base = _base(found, me.node, epoch, pending)
    for result in base.results:
        if _landed(result, memory, me, epoch) and memory.marked is not None:
            return Run(memory.marked, result)
    acted = _current(base, memory, me, epoch, pending, now)
    if acted != base or isinstance(found, Garbled):
        return Write(acted)
    if isinstance(view, Garbled):
        return Wait(view.problem)
    begins = [action for action in pending or () if action.index > acted.floor]
    if not begins or memory.running is not None:
        return Wait()
    action = begins[0]
    mark = _started(action, me, now)
    results = (*acted.results, mark)
    return Begin(action, acted.model_copy(update={"floor": action.index, "results": results}), mark)


def _started(action: Action, me: Writer, now: float) -> ActionResult:
    return ActionResult(
        index=action.index, name=action.name, state="started", nonce=me.nonce, boot=me.boot, started=round(now, 3)
    )


def ended(result: ActionResult, outcome: ActionOutcome, now: float) -> ActionResult:
    """`result` with what came of it."""
    return result.model_copy(
        update={
            "state": outcome.state,
            "result": outcome.result,
            "error": outcome.error,
            "ended": round(now, 3),
        }
    )


def _pending(view: Actions | Garbled | None, epoch: int) -> tuple[Action, ...] | None:
    """What is to be done, in order; None while that cannot be told: then nothing is begun, and nothing forgotten."""
    if view is None:
        return ()
    if isinstance(view, Garbled) or view.epoch != epoch:
        return None
    return tuple(sorted((item for item in view.pending if item.epoch == epoch), key=lambda item: item.index))


def _base(found: Acted | Garbled | None, node: str, epoch: int, pending: tuple[Action, ...] | None) -> Acted:
    if isinstance(found, Garbled):
        return Acted(node=node, epoch=epoch, floor=max((item.index for item in pending or ()), default=0))
    if found is None:
        return Acted(node=node, epoch=epoch)
    return found if found.epoch == epoch else found.model_copy(update={"epoch": epoch, "results": ()})


def _landed(result: ActionResult, memory: ActionMemory, me: Writer, epoch: int) -> bool:
    """Whether this is the mark that we have tried to set last, and have not begun since."""
    meant = memory.marked
    ours = result.state == "started" and result.nonce == me.nonce
    return ours and meant is not None and (meant.epoch, meant.index) == (epoch, result.index) > memory.begun


def _current(
    base: Acted, memory: ActionMemory, me: Writer, epoch: int, pending: tuple[Action, ...] | None, now: float
) -> Acted:
    """`base` with what is known now, without what nobody waits for any more."""
    floor = max(base.floor, memory.floor(epoch))
    wanted = None if pending is None else {item.index for item in pending}
    results = [_settled(result, memory, me, epoch, now) for result in base.results]
    known = {result.index for result in results}
    for action in pending or ():
        if action.index <= floor and action.index not in known:
            missing = memory.running or memory.ended
            if missing is None or (epoch, action.index) != memory.begun:
                gone = _started(action, replace(me, nonce="", boot=""), now)
                missing = ended(gone, ActionOutcome("lost", error=_PASSED_OVER), now)
            results.append(missing)
    kept = [item for item in results if item.state == "started" or wanted is None or item.index in wanted]
    return _fitted(base.model_copy(update={"floor": floor, "results": tuple(kept)}))


def _settled(result: ActionResult, memory: ActionMemory, me: Writer, epoch: int, now: float) -> ActionResult:
    """What is to be said of it now."""
    if result.state != "started":
        return result
    if result.nonce == me.nonce and memory.begun == (epoch, result.index):
        return memory.running or memory.ended or result
    if result.name == REBOOT and me.rebooted(result.boot):
        return ended(result, ActionOutcome("done"), now)
    return ended(result, ActionOutcome("lost", error=LOST), now)


def _fitted(acted: Acted) -> Acted:
    """Without the results of the oldest, if it were too large with them."""
    results = list(acted.results)
    for at, result in enumerate(results):
        if len(acted.encode()) <= ACTED_BYTES_MAX:
            break
        if result.result is not None:
            results[at] = result.model_copy(update={"result": {"omitted": "too many results at once"}})
            acted = acted.model_copy(update={"results": tuple(results)})
    return acted
