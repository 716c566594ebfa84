"""Commands and their commits: run, sent, found out about, answered, refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tests.model.ends import resigns
from tests.model.setting import Setting, changed, name_of, names, on_its_way, standing_by, used
from tests.model.store import land
from tests.model.world import CLOSES, NOT_SENT, Batch, Bounds, Commit, Masterd, World


def begin_commit(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """The start of a commit: `term.batch_runner.BatchRunner.run_next`, `state_machine.batch.Batch.execute` and
    `term.committer.Committer.commit`."""
    me = world.masterds[number]
    if me.commit:
        return
    if len(me.log) != me.reached:
        yield from resigns(setting, world, number, "finds journal and memory apart and")  # TermBroken
        return
    for asked in _batches(setting.bounds, world.clients):
        clients = _sent(world, asked, len(me.log))
        fresh = tuple(command for command in dict.fromkeys(asked) if _runs(setting, me, clients[command][0], command))
        if not setting.has("deduplication"):
            fresh = asked
        if not fresh:
            continue
        commit = Commit("commit", me.term, me.term_epoch, me.head, me.reached + len(fresh), fresh)
        begun = changed(world, number, me._replace(commit=commit, sent=False))._replace(clients=clients)
        if not setting.has("answers follow the commit"):
            begun = _answered(begun, fresh)
        yield f"{{}} takes {names(asked)} and runs {names(fresh)} as index {commit.last}", begun


def _batches(bounds: Bounds, clients: tuple[tuple[int, int], ...]) -> Iterator[Batch]:
    """Commands that may be in a leader's queue: sent now, repeated, or delayed since long ago."""
    ready = [command for command, (_, sends) in enumerate(clients) if sends]
    first = next((command for command in ready if clients[command][0] == NOT_SENT), len(clients))
    for size in range(1, bounds.batch + 1):
        for batch in itertools.product(ready, repeat=size):
            if all(batch.count(command) <= clients[command][1] for command in batch) and _in_order(batch, first):
                yield batch


def _in_order(batch: Batch, first: int) -> bool:
    """Whether commands that were never sent before come in the order of their numbers, beginning with `first`."""
    for command in batch:
        if command > first:
            return False
        first += command == first
    return True


def _sent(world: World, batch: Batch, index: int) -> tuple[tuple[int, int], ...]:
    """`nodectl` keeps `after` over all attempts: the most that could be known when it was first sent. To a leader that
    is at `index`, and does not know that it is deposed, it may have been sent before its successor committed more."""
    clients = list(world.clients)
    for command in batch:
        after, sends = clients[command]
        clients[command] = (min(index, len(world.history)) if after == NOT_SENT else after, sends - 1)
    return tuple(clients)


def _runs(setting: Setting, me: Masterd, after: int, command: int) -> bool:
    """`state_machine.batch.Batch._earlier_outcome`: neither known, nor too old to know, nor of a store that was since
    restored."""
    if command in me.log[me.ids_from :]:
        return False
    if CLOSES + command in me.log[me.ids_from :] and setting.has("a closed id is refused"):
        return False
    if after < len(me.log) - setting.kept and setting.has("a command below the floor is refused"):
        return False
    return after <= len(me.log)


def repeat(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.batch_runner.BatchRunner._commit_outcomes`: a batch that writes nothing is answered once the
    term is confirmed."""
    me = world.masterds[number]
    if me.commit:
        return
    for command, (after, sends) in enumerate(world.clients):
        if not sends or after == NOT_SENT or command not in me.log[me.ids_from :]:
            continue
        sent = world._replace(clients=_sent(world, (command,), len(me.log)))
        holds = world.store.leader[0] == me.term and world.store.epoch == me.term_epoch
        if holds or not setting.has("a repeat is answered after a confirmation"):
            yield f"{{}} answers {names((command,))} by its first result", _answered(sent, (command,))
        else:
            yield f"{{}} finds its term over, asked for {names((command,))}", changed(sent, number, standing_by(me))


def question(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """What became of a command: `state_machine.batch.Batch._earlier_outcome` and `state_machine.batch.Batch._close_id`.
    The command itself may still be delayed, and may never have been received."""
    me = world.masterds[number]
    if me.commit or not world.left.questions or len(me.log) != me.reached:
        return
    first = next((command for command, (after, _) in enumerate(world.clients) if after == NOT_SENT), -1)
    for command, (sent_after, sends) in enumerate(world.clients):
        if sent_after == NOT_SENT and command != first:
            continue
        after = min(len(me.log), len(world.history)) if sent_after == NOT_SENT else sent_after
        clients = (*world.clients[:command], (after, sends), *world.clients[command + 1 :])
        asked = world._replace(left=used(world.left, "questions"), clients=clients)
        item, known = CLOSES + command, me.log[me.ids_from :]
        if command in known or item in known:
            if world.store.leader[0] == me.term and world.store.epoch == me.term_epoch:
                found = (command,) if command in known else (item,)
                yield f"{{}} answers the question for {names((command,))} by {names(found)}", _answered(asked, found)
        elif not _runs(setting, me, after, command):
            continue  # too old to know, or of a store that was since restored
        elif setting.has("an id is closed by an entry"):
            commit = Commit("commit", me.term, me.term_epoch, me.head, me.reached + 1, (item,))
            yield (
                f"{{}} is asked for {names((command,))}",
                changed(asked, number, me._replace(commit=commit, sent=False)),
            )
        else:
            yield f"{{}} answers that {names((command,))} never will", _answered(asked, (item,))


def _answered(world: World, batch: Batch) -> World:
    """The callers of these have their results: they must have taken effect. Of a closed id the answer is that the
    command has not, and never will."""
    closed = tuple(item - CLOSES for item in batch if item >= CLOSES)
    lost = [command for command in batch if command < CLOSES and command not in world.history]
    if closed:
        world = world._replace(closed=tuple(sorted({*world.closed, *closed})))
    if world.wrong:
        return world
    if false := [command for command in closed if command in world.history]:
        return world._replace(wrong=f"{names((false[0],))} has taken effect, and is reported as never")
    if not lost:
        return world
    return world._replace(wrong=f"{names((lost[0],))} is acknowledged, and has not taken effect")


def commit_answered(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.journal.Journal.commit`, `_settle` and `_fate`."""
    me = world.masterds[number]
    if not me.commit:
        return
    after, done = land(world, me.commit, setting.without, setting.kept)
    if done:
        yield f"{{}}'s {name_of(me.commit)} lands", _advanced(setting, after, number, me, me.commit)
        return
    yield from _settle(setting, world, number, me, me.commit)


def _settle(
    setting: Setting, world: World, number: int, me: Masterd, sent: Commit, word: str = ""
) -> Iterator[tuple[str, World]]:
    """`term.journal.Journal._fate`, by what the failed transaction read. An empty commit is looked for first, then
    the
    one that it is to keep from landing (`_give_up`)."""
    leader, (head, _, nonce), epoch = world.store.leader[0], world.store.head, world.store.epoch
    for commit in (sent, me.causing):
        if commit and nonce == commit.nonce and head != sent.head and setting.has("head's nonce is looked at"):
            text = f"{{}}'s {name_of(sent)} fails: it finds the nonce of its {name_of(commit)} in head"
            yield text, _advanced(setting, world, number, me, commit)
            return
    waiting = me.causing or sent
    unmoved = head == sent.head or not setting.has("a moved head leaves it unknown")
    if leader == me.term and epoch == me.term_epoch:
        if unmoved:  # CompareFailed; no compare of the model's commits can bring it about
            after = _never(world, waiting)
            yield f"{{}}'s {name_of(sent)} fails for good", changed(after, number, _closed(me))
            return
        yield from resigns(setting, world, number, f"finds head moved under its own term by somebody else{word} and")
        return
    if unmoved:
        text = f"{{}}'s {name_of(sent)} fails, the term being over and head unmoved: surely never, it says"
        yield text, changed(_never(world, waiting), number, standing_by(me))
        return
    yield (
        f"{{}}'s {name_of(sent)} fails, the term being over: unknown, it says",
        changed(world, number, standing_by(me)),
    )


def _advanced(setting: Setting, world: World, number: int, me: Masterd, commit: Commit) -> World:
    """`term.journal.Journal._advance`, `replication.replica.Replica.apply`, and the callers' answers: their results,
    or, when it was
    the empty commit that landed, that theirs never will."""
    head, index, _ = world.store.head
    log = me.log + commit.batch
    ids_from = max(me.ids_from, len(log) - setting.kept)
    led = _closed(me)._replace(log=log, ids_from=ids_from, head=head, reached=index)
    if commit.batch:
        return changed(_answered(world, commit.batch), number, led)
    return changed(_never(world, me.causing), number, led)


def _closed(me: Masterd) -> Masterd:
    """Nothing is being committed any more."""
    return me._replace(commit=(), sent=False, causing=())


def _never(world: World, commit: tuple[()] | Commit) -> World:
    """The callers are told that no copy has landed or ever will.

    A copy that has landed, or is in flight, can make that false.
    """
    if not commit or world.wrong:
        return world
    if any((command, commit.term) in zip(world.history, world.by, strict=True) for command in commit.batch):
        return world._replace(wrong=f"callers of the {name_of(commit)} are told that it never will land: it has")
    told = commit._replace(never=True)
    return world._replace(late=tuple(sorted(told if txn == commit else txn for txn in world.late)))


def commit_late(_: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.journal.Journal.commit`, OutcomeUnknown: sent again, while a copy may land."""
    me = world.masterds[number]
    if me.commit and world.left.late:
        text = f"{{}} gets no answer to its {name_of(me.commit)}: a copy is on its way"
        yield text, changed(on_its_way(world, me.commit), number, me._replace(sent=True))


def commit_refused(setting: Setting, world: World, number: int) -> Iterator[tuple[str, World]]:
    """`term.journal.Journal.commit`: etcd's definite refusal. After an open attempt, `_give_up` moves `head` by an
    empty
    commit; where that is refused too, the term is given up."""
    me = world.masterds[number]
    if not me.commit or not world.left.refusals:
        return
    refused = world._replace(left=used(world.left, "refusals"))
    if me.causing:
        yield from resigns(setting, refused, number, "has its empty commit refused and")
    elif not me.sent or not setting.has("giving up moves head"):
        text = f"{{}}'s {name_of(me.commit)} is refused: surely never, it says"
        yield text, changed(_never(refused, me.commit), number, _closed(me))
    else:
        empty = Commit("commit", me.term, me.term_epoch, me.head, me.reached, ())
        giving_up = me._replace(commit=empty, causing=me.commit, sent=False)
        yield f"{{}}'s {name_of(me.commit)} is refused: it moves head instead", changed(refused, number, giving_up)
