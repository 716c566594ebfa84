"""Problems of masters and nodes that no single program can see, or that each master publishes in its candidacy. Pure.

Each function returns lines for operators.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from masterd.application.identity import application_in_force
from nodestore.schema.models import Alive, ApplicationOrder, Candidate, TermRecord, Waiting

_WINDOW_S = 3600.0
_TERMS_MIN = 8
"""So many unplanned terms within one hour are reported. A PC that fails and returns causes two or three."""
_STALE_S = 10.0


def master_problems(own_id: str, candidates: Mapping[str, Candidate], leader: str | None) -> list[str]:
    """What the other masters publish about themselves. One line a master: its most important problem."""
    lines = []
    for name, item in sorted(candidates.items()):
        if name == own_id:
            continue
        if item.unfit is not None:
            role = "leads, but should not" if name == leader else "is not fit to lead"
            lines.append(f"master {name} {role}: {item.unfit}")
        elif item.problem is not None:
            lines.append(f"master {name}: {item.problem}")
        elif item.age_s >= _STALE_S:
            lines.append(f"master {name}: its state is {item.age_s:.0f} s old")
    return lines


def standby_problem(candidates: Mapping[str, Candidate], leader: str | None) -> str | None:
    """Whether the loss of the leader would leave no fit masterd; None if there is a fit standby."""
    if len(candidates) < 2:
        return "no standby: if the leader dies, no masterd can take over"
    if any(name != leader and item.unfit is None for name, item in candidates.items()):
        return None
    return "no standby is fit to lead: if the leader dies, an unfit one takes over later, or none"


def application_problems(
    recorded: str | None, order: ApplicationOrder | None, candidates: Iterable[Candidate], leader: str | None
) -> list[str]:
    """An adoption that is not carried out yet, and commands that differ between masters."""
    in_force, listed = application_in_force(recorded, order), list(candidates)
    problems = []
    if in_force != recorded and order is not None:
        problems.append(
            f"application {in_force!r} was adopted by {order.actor}, but does not lead yet: "
            "hand over with `nodectl master switchover`, or start a masterd with it"
        )
    leading = next((item for item in listed if item.id == leader), None)
    if leading is None or not leading.commands_hash:
        return problems
    other = [
        item.id
        for item in listed
        if item.application == leading.application and item.commands_hash not in ("", leading.commands_hash)
    ]
    if other:
        problems.append(
            f"masters {', '.join(sorted(other))} run a version of application {leading.application!r} with other "
            f"commands than the leader {leading.id} (nodectl app check)"
        )
    return problems


def leadership_problem(terms: Iterable[TermRecord], now: float) -> str | None:
    """Whether leadership changes too often without an order; None if it does not. now: seconds since the Unix epoch."""
    recent = [term for term in terms if now - _WINDOW_S <= term.since <= now + _WINDOW_S and _is_unplanned(term)]
    if len(recent) < _TERMS_MIN:
        return None
    led = ", ".join(f"{name} {count} times" for name, count in Counter(term.id for term in recent).most_common(3))
    causes = Counter(term.cause for term in recent)
    why = ", ".join(f"{cause} {count}" for cause, count in causes.most_common())
    suspected = causes["silent"] + causes["stuck"]
    advice = (
        "the PCs or the network are overloaded: start all masterds with --timing slow"
        if 2 * suspected >= len(recent)
        else "see the logs of these masterds"
    )
    return (
        f"leadership changed {len(recent)} times within an hour without an order (led: {led}; causes: {why}); {advice} "
        "(nodectl why)"
    )


def _is_unplanned(term: TermRecord) -> bool:
    if term.cause == "resigned":  # a masterd that is stopped resigns too: that is planned
        return "cannot lead" in term.why
    return term.cause not in ("first", "switchover")


def waiting_nodeds(waiting: Mapping[str, Waiting]) -> dict[str, list[str]]:
    """By node: the nodeds that wait for its claim, in words. waiting: by `<node>/<nonce>`."""
    found: dict[str, list[str]] = {}
    for key, item in sorted(waiting.items()):
        found.setdefault(key.partition("/")[0], []).append(f"{item.host} (pid {item.pid}, host id {item.host_id})")
    return found


def noded_problems(
    configured: Collection[str] | None,
    alive: Mapping[str, Alive],
    changes: Mapping[str, Sequence[str]],
    waiting: Mapping[str, Waiting] = MappingProxyType({}),
) -> list[str]:
    """Nodeds of nodes that are not configured, nodeds that wait, and nodes whose noded changes again and again.

    configured: None before the first configuration; then it is no problem that nodeds have no node.
    changes: by node, the hosts of the nodeds that have claimed it recently, if there were too many. waiting: by
    `<node>/<nonce>`, the nodeds that drive nothing because another host holds the claim.
    """
    problems = [
        f"node {name} is not in the configuration, but a noded on {claim.host} claims it: add it, or stop that noded"
        for name, claim in sorted(alive.items())
        if configured is not None and name not in configured
    ]
    problems += [
        f"node {name}: a noded on {', '.join(nodeds)} waits and drives nothing, because one on "
        f"{claim.host} (pid {claim.pid}) holds the claim: stop one of them, or give it another name"
        for name, nodeds in sorted(waiting_nodeds(waiting).items())
        if (claim := alive.get(name)) is not None
    ]
    for name, hosts in sorted(changes.items()):
        where = ", ".join(sorted(set(hosts)))
        problems.append(
            f"node {name}: {len(hosts)} nodeds have claimed it within 5 minutes (on {where}): if two nodeds use this "
            "name, stop one; if noded is restarted again and again, see its log"
        )
    return problems
