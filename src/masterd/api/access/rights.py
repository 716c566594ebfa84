"""The table of rights: who may send which request to a masterd. Pure.

Every route has exactly one entry; a masterd with a route that has none does not start. docs/security.md shows this
table. All messages between the daemons that do not go through etcd are routes too: heartbeats, the order to take over,
forwarded requests, and the connection of noded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from masterd.roles.principal import Kind, Principal
from nodestore.schema.models import Role

ROLES: tuple[Role, ...] = get_args(Role)
"""The roles of people, from the least to the most. Each may do what those before it may."""
PROGRAMS: tuple[Kind, ...] = (Kind.MASTER, Kind.NODED)


@dataclass(frozen=True, slots=True)
class Right:
    """Who may use a route.

    least: the least role of people; None: no role allows it. programs: the daemons that may. is_public: no credential
    is needed. needs_credential: one is needed even if access control is off. for_limited: also a principal that is
    limited to some commands or nodes may. own_node: noded may only for the node that its certificate names.
    is_stream: the answer lasts, so it ends when the credential does.
    """

    least: Role | None = None
    programs: tuple[Kind, ...] = ()
    is_public: bool = False
    needs_credential: bool = False
    for_limited: bool = False
    own_node: bool = False
    is_stream: bool = False

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of people that may, from the least to the most."""
        return () if self.least is None else ROLES[ROLES.index(self.least) :]

    def allows(self, principal: Principal, node: str = "") -> bool:
        """Whether this principal may. node: the node that the path of the request names."""
        if self.is_public or principal.kind is Kind.ANYONE:
            return True
        if principal.kind in self.programs:
            return not self.own_node or node == principal.name
        return principal.role in self.roles and (self.for_limited or not principal.is_limited)

    def requirement(self) -> str:
        """Who may, as the end of a sentence."""
        programs = [f"a {kind.value}'s certificate" for kind in self.programs]
        roles = [f"the role {' or '.join(self.roles)}"] if self.roles else []
        return " or ".join([*roles, *programs])


_READ = Right("viewer", for_limited=True)
_STREAM = Right("viewer", for_limited=True, is_stream=True)
_COMMAND = Right("operator", for_limited=True)
_MAINTAIN = Right("maintainer")
_ADMINISTER = Right("admin", needs_credential=True)
_PUBLIC = Right(is_public=True)

RIGHTS: Mapping[tuple[str, str], Right] = {
    ("GET", "/v1/health"): _PUBLIC,
    ("GET", "/leader"): _PUBLIC,
    ("HEAD", "/leader"): _PUBLIC,
    ("GET", "/ready"): _PUBLIC,
    ("HEAD", "/ready"): _PUBLIC,
    ("GET", "/live"): _PUBLIC,
    ("HEAD", "/live"): _PUBLIC,
    ("GET", "/"): _PUBLIC,
    ("GET", "/login"): _PUBLIC,
    ("POST", "/v1/login"): _PUBLIC,
    ("POST", "/v1/logout"): _READ,
    ("POST", "/v1/session/code"): _READ,
    ("GET", "/v1/whoami"): Right("viewer", PROGRAMS, for_limited=True),
    ("GET", "/v1/leader"): _READ,
    ("GET", "/v1/masters"): _READ,
    ("GET", "/v1/members"): _READ,
    ("GET", "/v1/nodes"): _READ,
    ("GET", "/v1/nodes/watch"): _STREAM,
    ("GET", "/v1/nodes/{node}"): _READ,
    ("GET", "/v1/nodes/{node}/log"): _READ,
    ("GET", "/v1/documents"): _READ,
    ("GET", "/v1/documents/{path}"): _READ,
    ("GET", "/v1/commands"): _READ,
    ("GET", "/v1/history"): _READ,
    ("GET", "/v1/events"): _STREAM,
    ("GET", "/v1/cluster/watch"): _STREAM,
    ("GET", "/v1/live"): _STREAM,
    ("GET", "/v1/terms"): _READ,
    ("GET", "/v1/snapshots"): _READ,
    ("GET", "/v1/snapshots/{name}"): _READ,
    ("GET", "/v1/config"): _READ,
    ("GET", "/v1/config/history"): _READ,
    ("GET", "/v1/status"): _READ,
    ("GET", "/v1/application"): _READ,
    ("GET", "/v1/paused"): _READ,
    ("GET", "/openapi.json"): _READ,
    ("POST", "/v1/commands"): _COMMAND,
    ("POST", "/v1/commands/outcome"): _COMMAND,
    ("PUT", "/v1/config"): _MAINTAIN,
    ("POST", "/v1/snapshots"): _MAINTAIN,
    ("DELETE", "/v1/snapshots/{name}"): _MAINTAIN,
    ("POST", "/v1/leader/switchover"): _MAINTAIN,
    ("POST", "/v1/drill"): _MAINTAIN,
    ("PUT", "/v1/application"): _MAINTAIN,
    ("PUT", "/v1/paused"): _MAINTAIN,
    ("DELETE", "/v1/paused"): _MAINTAIN,
    ("GET", "/v1/tokens"): _ADMINISTER,
    ("POST", "/v1/tokens"): _ADMINISTER,
    ("DELETE", "/v1/tokens/{id}"): _ADMINISTER,
    ("GET", "/v1/join-tokens"): _ADMINISTER,
    ("POST", "/v1/join-tokens"): _ADMINISTER,
    ("DELETE", "/v1/join-tokens/{id}"): _ADMINISTER,
    ("PUT", "/v1/access"): _ADMINISTER,
    ("GET", "/v1/audit"): Right("admin"),
    ("GET", "/v1/follow"): Right(programs=(Kind.MASTER,), is_stream=True),
    ("POST", "/v1/campaign"): Right(programs=(Kind.MASTER,)),
    ("GET", "/v1/nodes/{node}/log-link"): Right(programs=(Kind.NODED,), own_node=True, is_stream=True),
}

MAINTAINERS_COMMANDS = frozenset({"snapshot.restore", "time.reset"})
"""Commands of masterd itself that need the role maintainer. Their names cannot be those of an application's commands,
or, if they are, need that role too."""
NODE_ACT, REBOOT = "node.act", "reboot"


def missing_rights(routes: Iterable[tuple[str, str]]) -> list[str]:
    """The routes without an entry, and the entries without a route, as text."""
    present = set(routes)
    without_entry = [f"{method} {path} has no entry" for method, path in sorted(present - RIGHTS.keys())]
    return without_entry + [f"{method} {path} is no route" for method, path in sorted(RIGHTS.keys() - present)]


def command_refusal(principal: Principal, name: str, args: Mapping[str, Any]) -> str | None:
    """Why this principal may not send this command; None if it may. That it may send commands at all was
    checked before."""
    if principal.kind is Kind.ANYONE:
        return None
    needs_maintainer = name in MAINTAINERS_COMMANDS or (name == NODE_ACT and args.get("action") == REBOOT)
    if needs_maintainer and principal.role not in ("maintainer", "admin"):
        what = f"{name} {REBOOT}" if name == NODE_ACT else name
        return f"{principal} may not send the command {what}: it needs the role maintainer or admin"
    if principal.commands and not principal.may_name(name):
        return f"{principal} may not send the command {name[:80]}: only {', '.join(principal.commands)}"
    if principal.groups and name in MAINTAINERS_COMMANDS:
        return f"{principal} may not send the command {name}: it may change only nodes of {', '.join(principal.groups)}"
    return None
