"""Suspicion: a standby challenges the leader through the store, the leader answers, and an answer ends the suspicion.

All of it is about liveness. Who takes over needlessly breaks no promise, but two masterds that do not hear each other
would take turns. When a suspicion begins, and how long an answer is waited for, is left out: both may be at any time.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.model.setting import Setting, changed, on_its_way, standing_by, used
from tests.model.store import land
from tests.model.takeovers import begun
from tests.model.world import Answer, Takeover, World


def challenge(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`election.leader_watch.LeaderWatch._challenge`: which answer stands there already is read in the same
    transaction."""
    me, term = world.masterds[number], world.store.leader[0]
    if not world.left.challenges or not term or me.asked:
        return
    nonce = setting.bounds.challenges - world.left.challenges + 1
    asks = me._replace(doubts=True, challenges=(*me.challenges, (term, nonce)), noted=me.answer[0])
    yield (
        f"{{}} challenges the leader of term {term} (challenge {nonce})",
        changed(world, number, asks)._replace(left=used(world.left, "challenges")),
    )


def suspect(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`election.leader_watch.LeaderWatch.takeover_reason`: no answer was heard. One may have been written."""
    me = world.masterds[number]
    if me.asked or not me.doubts or not world.left.takeovers:
        return
    term, nonce = me.challenges[-1]
    asked = Takeover("takeover", 0, term, 0, nonce, me.noted)
    yield begun(setting, world, number, asked, f"as term {term} has not answered challenge {nonce}")


def hear_answer(_: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`election.leader_watch.LeaderWatch._on_answer`: the suspicion is over."""
    me = world.masterds[number]
    if me.doubts and not me.asked and me.answer[1] == me.challenges[-1][1]:
        yield f"{{}} hears the answer to challenge {me.answer[1]}", changed(world, number, me._replace(doubts=False))


def answer(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.challenge_responder.ChallengeResponder._answer`: of the other's newest challenge, which is all that
    stands in the
    store."""
    me, other = world.masterds[number], world.masterds[1 - number]
    if not other.challenges:
        return
    term, nonce = other.challenges[-1]
    if nonce == other.answer[1] or (term != me.term and setting.has("an answer is to a challenge of its term")):
        return
    txn = Answer("answer", me.term, me.term_epoch, nonce)
    after, done = land(world, txn, setting.without, setting.kept)
    if done:
        yield f"{{}} answers challenge {nonce}", after
    else:
        yield f"{{}} finds its term over, answering challenge {nonce}", changed(world, number, standing_by(me))
    if world.left.late and txn not in world.late:
        yield f"{{}} answers challenge {nonce}, without hearing that it did", on_its_way(world, txn)
