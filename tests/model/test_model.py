"""Every order of events within bounds: nothing is broken, and each rule taken out is noticed, by the shortest way.

`pytest -s tests/model` prints those ways, and how many worlds were seen. `make deep` searches further, for minutes.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from tests.model import commits, ends, housekeeping, setting, store, suspicions, takeovers, world
from tests.model.explore import Explored, explore
from tests.model.store import RULES
from tests.model.world import Bounds

SCOPES = {
    "commits": Bounds(takeovers=2, late=2, expiries=0, refusals=1, crashes=1),
    "leases": Bounds(takeovers=2, late=2, expiries=1, lease_losses=1),
    "batches": Bounds(commands=3, batch=2, sends=2, takeovers=2, late=1, expiries=0),
    "takeovers": Bounds(commands=1, takeovers=3, late=2, resignations=1, expiries=1),
    "snapshots": Bounds(
        commands=3, sends=1, kept=1, takeovers=2, late=1, expiries=0, crashes=1, snapshots=2, truncations=1, damages=1
    ),
    "ids": Bounds(commands=3, kept=1, takeovers=2, late=0, expiries=0, snapshots=2, truncations=1, damages=1),
    "recovery": Bounds(commands=2, sends=1, takeovers=3, late=1, expiries=0, restores=1),
    "recovery, repeats": Bounds(commands=1, takeovers=2, late=1, expiries=1, restores=1),
    "suspicions": Bounds(commands=1, sends=1, takeovers=3, late=1, expiries=0, challenges=2),
    "prepared": Bounds(commands=1, sends=1, takeovers=3, late=1, expiries=0, restores=1, prepares=1),
    "questions": Bounds(commands=1, takeovers=2, late=2, expiries=0, refusals=1, crashes=1, questions=2),
    "forgotten questions": Bounds(commands=2, sends=1, kept=1, takeovers=2, late=1, expiries=0, questions=2),
}
"""What may happen how often: everything else happens in every order that these allow."""

DEEP = {
    "commits": Bounds(takeovers=2, late=3, expiries=1, refusals=1, crashes=1),
    "takeovers": Bounds(commands=1, takeovers=3, late=3, resignations=1, expiries=1, lease_losses=1),
    "snapshots": Bounds(
        commands=3, kept=1, takeovers=2, late=1, expiries=0, crashes=1, snapshots=3, truncations=2, damages=1
    ),
    "recovery": Bounds(commands=2, takeovers=3, late=1, expiries=1, restores=1),
    "suspicions": Bounds(commands=1, sends=1, takeovers=3, late=1, expiries=1, crashes=1, challenges=2),
    "prepared": Bounds(commands=1, sends=1, takeovers=3, late=2, expiries=0, restores=1, prepares=1),
}

LIVENESS = [
    ("a suspicion compares the answer", "suspicions", "replaces a leader that has answered"),
    ("who loses reads the epoch anew", "prepared", "tries with epoch 1, by which it has lost"),
]
"""Rules without which no promise breaks: leaders are replaced needlessly, or a masterd can never lead again."""

BROKEN = [
    ("takeover compares leader", "takeovers", "took over from"),
    ("takeover compares epoch", "recovery, repeats", "terms go back"),
    ("takeover compares terms/<nonce>", "takeovers", "wins a second term"),
    ("commit compares leader", "commits", "a commit of term 1 lands in term 2"),
    ("commit compares head", "commits", "a fork"),
    ("housekeeping compares leader", "snapshots", "lands in term"),
    ("resignation compares leader", "takeovers", "the resignation of term 1 ends term 2"),
    ("deduplication", "commits", "takes effect twice"),
    ("a command below the floor is refused", "ids", "takes effect twice"),
    ("giving up moves head", "commits", "told that it never will"),
    ("a moved head leaves it unknown", "commits", "told that it never will"),
    ("answers follow the commit", "commits", "is acknowledged, and has not taken effect"),
    ("a winner catches up to head", "commits", "a leader's memory holds"),
    ("a replica belongs to one epoch", "recovery", "a leader's memory holds"),
    ("a repeat is answered after a confirmation", "recovery, repeats", "is acknowledged, and has not taken effect"),
    ("truncation stops at the older of two snapshots", "ids", "nobody can start any more"),
    ("snapshots hold the ids", "ids", "which must be known"),
    ("recovery deletes leader", "recovery", "lands in term"),
    ("an id is closed by an entry", "questions", "takes effect, and was reported as never"),
    ("a closed id is refused", "questions", "takes effect, and was reported as never"),
    ("an answer compares leader", "suspicions", "an answer of term 1 lands in term 2"),
    *LIVENESS,
]
"""A rule, where it matters, and what breaks without it."""

HARMLESS = {
    "commit compares epoch": Bounds(takeovers=2, late=1, expiries=0, restores=1),
    "head's nonce is looked at": Bounds(takeovers=2, late=2, expiries=0, refusals=1),
    "a term is claimed once": Bounds(takeovers=2, late=2, expiries=0, resignations=1),
    "truncation stops at the ids' floor": SCOPES["ids"],
    "an answer is to a challenge of its term": SCOPES["suspicions"],
}
"""Rules that no promise rests on alone, as far as the model goes: a second one stands behind each.

The epoch in a commit's fence: recovery deletes `leader`, which the fence compares too. head's nonce: without it a term
is given up in vain, and callers hear that it is unknown. A term claimed anew: its first claim's copies meet another
`head`. The ids' floor: snapshots hold the ids too; truncation under pressure relies on that. An answer to a challenge
of another term: a takeover compares the leader that was challenged too.
"""


_MODULES = (world, store, setting, takeovers, commits, ends, housekeeping, suspicions)


def say(line: str) -> None:
    sys.stdout.write(f"\n{line}\n")


@pytest.mark.parametrize("scope", SCOPES)
def test_no_order_of_events_breaks_anything(scope: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The search is complete within the scope's bounds, and finds nothing."""
    found = explore(SCOPES[scope])
    with capsys.disabled():
        say(f"model, {scope}: {found}")
    assert not found.trace, str(found)
    assert not found.cut, str(found)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scope", DEEP)
def test_no_order_of_more_events_breaks_anything(scope: str) -> None:
    """The same, with more of everything."""
    found = explore(DEEP[scope], worlds_max=20_000_000)
    say(f"{scope}, deep: {found}")
    assert not found.trace, str(found)
    assert not found.cut, str(found)


@pytest.mark.parametrize(("rule", "scope", "what"), BROKEN, ids=[rule for rule, _, _ in BROKEN])
def test_a_rule_that_is_taken_out_is_noticed(rule: str, scope: str, what: str) -> None:
    """The shortest way to break it without this rule, in words."""
    found = explore(SCOPES[scope], rule)
    say(f"without {rule!r} ({RULES[rule]}): {found}")
    assert found.trace, f"nothing breaks without {rule!r}"
    assert what in found.trace[-1], str(found)


@pytest.mark.parametrize("rule", HARMLESS)
def test_a_rule_behind_which_another_stands(rule: str) -> None:
    """Nothing breaks without it alone; should that change, it has become one that a promise rests on."""
    found = explore(HARMLESS[rule], rule)
    say(f"without {rule!r} ({RULES[rule]}): {found}")
    assert not found.trace, str(found)


def test_every_rule_is_judged() -> None:
    """Each is among those that break something or those that do not."""
    assert {rule for rule, _, _ in BROKEN} | HARMLESS.keys() == RULES.keys()


def test_what_the_model_names_is_in_the_code() -> None:
    """Each step and each rule names an existing function of masterd.

    If one was renamed or removed, the model must follow.
    """
    texts = [inspect.getdoc(item) or "" for module in _MODULES for item in vars(module).values()]
    named = [name for text in texts for name in re.findall(r"`([a-z_]+(?:\.\w+)+)`", text)]
    named += [name for where in RULES.values() if where != "nodectl recover" for name in where.split(", ")]
    assert len(named) > 40
    missing = [name for name in named if not _exists(name)]
    assert not missing


def _exists(name: str) -> bool:
    """Whether `package.module.Class.method` exists below masterd or nodestore."""
    *package, module, rest = name.split(".", 2)
    where = ".".join([*package, module])
    tops = [top for top in ("masterd", "nodestore") if _is_module(f"{top}.{where}")]
    found: object = import_module(f"{tops[0]}.{where}") if tops else None
    for part in rest.split("."):
        found = getattr(found, part, None)
    return found is not None


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its package does not exist
        return False


def test_a_search_that_is_given_up_says_so() -> None:
    """A search that is given up proves nothing."""
    found = explore(SCOPES["commits"], worlds_max=100)
    assert found.cut
    assert "given up" in str(found)


def test_a_way_to_break_it_is_told_in_words() -> None:
    """Masterds keep their names along it, and what is broken stands at its end."""
    found = explore(Bounds(commands=1, expiries=0), "commit compares leader")
    assert isinstance(found, Explored)
    assert found.trace == (
        "A begins takeover 1, having seen no leader",
        "A's takeover 1 lands: it has won term 1",
        "B begins takeover 2, having seen term 1",
        "B's takeover 2 lands: it has won term 2",
        "A takes command 1 and runs command 1 as index 1",
        "A's commit of command 1 lands",
        "a commit of term 1 lands in term 2",
    )
