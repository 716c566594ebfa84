"""The table of rights as docs/security.md shows it."""

from __future__ import annotations

from masterd.api.access.rights import PROGRAMS, RIGHTS, ROLES, Right
from masterd.roles.principal import Principal

_NAMES = {"master": "masterd", "noded": "noded"}


def table() -> str:
    """The Markdown table of all routes, and who may use them."""
    programs = [_NAMES[kind.value] for kind in PROGRAMS]
    heads = ["request", *ROLES, *programs, "limited"]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for (method, path), right in RIGHTS.items():
        lines.append(_row([f"`{method} {path}`", *_marks(right)]))
    return "\n".join(lines)


def _marks(right: Right) -> list[str]:
    if right.is_public:
        return ["without a credential", *[""] * (len(ROLES) + len(PROGRAMS))]
    people = [_mark(role in right.roles) for role in ROLES]
    programs = [
        ("own node" if right.own_node else "yes") if right.allows(Principal(kind, "n"), "n") else ""
        for kind in PROGRAMS
    ]
    return [*people, *programs, _mark(right.for_limited)]


def _mark(is_allowed: bool) -> str:
    return "yes" if is_allowed else ""


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
