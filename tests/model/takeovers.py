"""Takeovers: begun, answered, late, left open, claimed; and what a winner and a standby read."""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.ends import resigns
from tests.model.setting import Setting, changed, in_store, on_its_way, used
from tests.model.store import caught_up, land
from tests.model.world import LEADING, WON, Batch, Masterd, Takeover, World


def begin_takeover(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`election.campaign.Campaign._attempt_takeover`: what was seen of `leader` and the epoch is in the transaction
    from here on."""
    me = world.masterds[number]
    if me.asked or not world.left.takeovers:
        return
    seen = world.store.leader[0]
    what = f"having seen {f'term {seen}' if seen else 'no leader'}"
    yield begun(setting, world, number, Takeover("takeover", 0, seen, 0), what)


def begun(setting: Setting, world: World, number: int, asked: Takeover, what: str) -> tuple[str, World]:
    """The takeover has a new nonce, and the epoch as it was read ahead or is read now."""
    me = world.masterds[number]
    nonce = setting.bounds.takeovers - world.left.takeovers + 1
    epoch = abs(me.prepared) or world.store.epoch
    wrong = world.wrong if me.prepared >= 0 else f"it tries with epoch {epoch}, by which it has lost: for ever"
    prepared = epoch if setting.bounds.prepares else 0
    asked = asked._replace(nonce=nonce, epoch=epoch)
    tried = changed(world, number, me._replace(asked=asked, attempts=(*me.attempts, nonce), prepared=prepared))
    return f"{{}} begins takeover {nonce}, {what}", tried._replace(left=used(world.left, "takeovers"), wrong=wrong)


def prepare(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`election.campaign.Campaign._read_epoch_ahead`: the epoch is read ahead of time."""
    me, epoch = world.masterds[number], world.store.epoch
    if setting.bounds.prepares and not me.prepared:
        yield f"{{}} reads that the epoch is {epoch}", changed(world, number, me._replace(prepared=epoch))


def takeover_answered(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`cluster.election.takeover`. Where its own nonce is in `leader`, `_claim` follows."""
    me = world.masterds[number]
    if not me.asked:
        return
    after, won = land(world, me.asked, setting.without, setting.kept)
    if not won:
        lost = me._replace(asked=(), doubts=False, prepared=_after_losing(setting, world, me))
        yield f"{{}}'s takeover {me.asked.nonce} fails", changed(world, number, lost)
        return
    text = f"{{}}'s takeover {me.asked.nonce} lands: it has won term {after.store.leader[0]}"
    yield text, _won(setting, after, number, me, me.asked.nonce, me.asked.epoch)


def _after_losing(setting: Setting, world: World, me: Masterd) -> int:
    """`election.campaign.Campaign._attempt_takeover`: the epoch that it goes on with."""
    if setting.has("who loses reads the epoch anew"):
        return 0
    return me.prepared if me.prepared == world.store.epoch else -abs(me.prepared)


def takeover_late(_: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`etcd.session.Etcd._unary`: no answer from a member, so another is asked; the copy may land yet."""
    asked = world.masterds[number].asked
    if asked and world.left.late:
        yield f"{{}} gets no answer to takeover {asked.nonce}: a copy is on its way", on_its_way(world, asked)


def takeover_left_open(_: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`election.campaign.Campaign._step`, OutcomeUnknown: it goes on observing, and knows its nonce should it show
    up."""
    me = world.masterds[number]
    if me.asked and (me.asked in world.late or me.asked.nonce in world.store.terms):
        yield f"{{}} leaves takeover {me.asked.nonce} open", changed(world, number, me._replace(asked=()))


def claim(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`election.campaign.Campaign._claim_landed_takeover`, `cluster.election.confirm_takeover`: its own nonce is in
    `leader`."""
    me = world.masterds[number]
    term, nonce = world.store.leader
    if nonce in me.attempts:
        yield (
            f"{{}} finds its nonce in leader and claims term {term}",
            _won(setting, world, number, me, nonce, world.store.epoch),
        )


def _won(setting: Setting, world: World, number: int, me: Masterd, nonce: int, epoch: int) -> World:
    """`cluster.election._parse_won` and the beginning of `replication.replica.Replica.apply_takeover`: what the
    takeover brought
    along is applied."""
    attempts = tuple(item for item in me.attempts if item != nonce or not setting.has("a term is claimed once"))
    log, ids_from = _of_epoch(setting, me, epoch)
    tail = [entry for entry in world.store.journal if entry[0] > len(log)][: setting.bounds.tail]
    for last, batch in tail:
        if last - len(batch) == len(log):
            log += batch
            ids_from = max(ids_from, len(log) - setting.kept)
    head, index, _ = world.store.head
    behind = len(log) != index and setting.has("a winner catches up to head")
    led = Masterd(
        WON if behind else LEADING, log, ids_from, epoch, attempts, (), world.store.leader[0], epoch, head, index,
        prepared=me.prepared,
    )  # fmt: skip
    me = in_store(world.masterds[number], led)
    return changed(_leads(world, me), number, me)


def _of_epoch(setting: Setting, me: Masterd, epoch: int) -> tuple[Batch, int]:
    """`replication.replica.Replica._enter_epoch`: in another epoch, indexes mean other commands."""
    same = me.epoch in (0, epoch) or not setting.has("a replica belongs to one epoch")
    return (me.log, me.ids_from) if same else ((), 0)


def _leads(world: World, me: Masterd) -> World:
    """A leader has in memory all that was committed before its term."""
    if me.role != LEADING or world.wrong or me.term != world.newest[1] or me.log == world.history:
        return world
    return world._replace(wrong=f"a leader's memory holds {me.log}, not {world.history}")


def catch_up(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`replication.replica.Replica.apply_takeover`: what the takeover did not bring along is read under the term
    already won.
    Where that
    is not possible, `roles.master.Master.become_leader` gives the term up."""
    me = world.masterds[number]
    log, ids_from = _of_epoch(setting, me, world.store.epoch)
    found = caught_up(world.store, log, ids_from, setting.kept)
    if found is None:
        yield from resigns(setting, world, number, "cannot catch up")
        return
    led = me._replace(role=LEADING, log=found[0], ids_from=found[1], epoch=world.store.epoch)
    yield "{} has caught up and leads", changed(_leads(world, led), number, led)


def follow(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`replication.replica.Replica.follow`."""
    me = world.masterds[number]
    log, ids_from = _of_epoch(setting, me, world.store.epoch)
    found = caught_up(world.store, log, ids_from, setting.kept)
    if found is not None and (found[0] != me.log or me.epoch not in (0, world.store.epoch)):
        followed = me._replace(log=found[0], ids_from=found[1], epoch=world.store.epoch)
        yield f"{{}} follows the journal to index {len(found[0])}", changed(world, number, followed)
