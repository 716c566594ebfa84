"""Errors, split by what the caller must do about them. Pure.

    NodectlError            failed; the same request will fail again
      Invalid               the request is malformed: change it
        DefinitionError     an application is defined wrongly
      Refused               the application does not do this in its present state
      TooLarge              a command or document exceeds a limit
      NotFound              the named thing does not exist
      Conflict              another writer changed it first: read again, then decide
        TooOld              the command may have run so long ago that its result is forgotten
        IdReused            the command's id belongs to another command: choose another id
        IdClosed            the command has no effect and never will, because its outcome was asked for
      ResultForgotten       the command took effect earlier, but its result is no longer kept
      Unavailable           nothing has happened: try again later
        Overloaded          the same: this masterd has too much to do, and says when to try again
        NoSpace             etcd's database is full
        NodeUnavailable     the node that must answer is not connected to the leader, or drives nothing
        NotLeader           this masterd does not lead
          LeadershipLost    the term ended before the request took effect
      Denied                etcd or a master refuses these credentials
        Unauthenticated     a master needs a credential, and the request has none that is valid
        Forbidden           the credential is valid, and its role or its limits do not allow the request
      TimedOut              a wait for an effect ended before the effect
      OutcomeUnknown        it may have taken effect: repeat it with the same id
        NoSpaceUnknown      the same, because etcd's database is full
      Compacted             etcd no longer has the revision that was asked for
      LeaseLost             the lease has or may have expired
      Garbage               a value, such as that of a key in etcd, cannot be decoded

A handler of an application raises Refused, NotFound, Conflict or Invalid to refuse a command.
Each class has the `code` that identifies it in a problem document, and the `exit_code` of the CLI.
"""

from __future__ import annotations

from typing import ClassVar


class NodectlError(Exception):
    """The request failed, and the same request will fail again."""

    code: ClassVar[str] = "failed"
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    @property
    def message(self) -> str:
        """The error in one line, for people."""
        return str(self)


class Invalid(NodectlError):
    """The request is malformed: change it before asking again."""

    code = "invalid"
    status = 400
    exit_code = 2


class DefinitionError(Invalid):
    """An application is defined wrongly. Raised where it is defined, so that its module cannot be imported."""


class Refused(NodectlError):
    """The application will not do this in the present state; nothing has changed."""

    code = "refused"
    status = 422


class TooLarge(NodectlError):
    """A command or document exceeds a limit; nothing has changed."""

    code = "too_large"
    status = 413


class NotFound(NodectlError):
    """The thing named does not exist."""

    code = "not_found"
    status = 404
    exit_code = 3


class Conflict(NodectlError):
    """Another writer changed it first: read it again, then decide."""

    code = "conflict"
    status = 409
    exit_code = 4


class TooOld(Conflict):
    """The command may have run so long ago that its id is no longer remembered.

    It was not run now. Read the state, then decide.
    """

    code = "too_old"
    status = 410


class IdReused(Conflict):
    """The id belongs to an earlier command with another name or other arguments.

    The command was not run. Send it with an id of its own.
    """

    code = "id_reused"


class IdClosed(Conflict):
    """The command has not taken effect, and no copy of it ever will: its id was closed when its outcome was asked for.

    If it is still wanted, send it with a new id.
    """

    code = "id_closed"


class ResultForgotten(NodectlError):
    """The command took effect when it was first sent, but its result is no longer kept.

    It was not run again. `message` names its index.
    """

    code = "result_forgotten"
    status = 410


class Unavailable(NodectlError):
    """No program could serve the request, so nothing has changed: try again later."""

    code = "unavailable"
    status = 503
    exit_code = 5
    retry_after_s: float | None = None
    """How long to wait before the next attempt, if the master says so."""


class Overloaded(Unavailable):
    """This master has too much to do, so nothing has happened: try again after `retry_after_s`.

    Its code is that of Unavailable, which older clients know.
    """

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoSpace(Unavailable):
    """etcd's database is full: it takes no puts and grants no leases until space is freed."""

    code = "no_space"
    status = 507


class NodeUnavailable(Unavailable):
    """The node that must answer has no connection to the leader, or drives nothing at the moment."""

    code = "node_unavailable"


class NotLeader(Unavailable):
    """This masterd does not lead, so nothing has happened; `url` is the leader's, when known."""

    code = "not_leader"
    status = 503

    def __init__(self, message: str, url: str | None = None) -> None:
        super().__init__(message)
        self.url = url


class LeadershipLost(NotLeader):
    """The term ended before the request took effect; it has no effect, and will have none."""

    code = "leadership_lost"


class Denied(NodectlError):
    """etcd or a master refuses these credentials."""

    code = "denied"
    status = 403
    exit_code = 6


class Unauthenticated(Denied):
    """The request has no valid credential, so nothing has happened: log in, or use another certificate."""

    code = "unauthenticated"
    status = 401


class Forbidden(Denied):
    """The role or the limits of the credential do not allow this request; nothing has happened."""

    code = "forbidden"


class TimedOut(NodectlError):
    """The wait for the effect of a request timed out. The request itself stands."""

    code = "timed_out"
    status = 504
    exit_code = 7


class OutcomeUnknown(NodectlError):
    """The request may have taken effect, or may still do so. Repeat it with the same id, never with a new one."""

    code = "outcome_unknown"
    status = 504
    exit_code = 8


class NoSpaceUnknown(OutcomeUnknown):
    """etcd's database is full, and this write may be the one that filled it.

    The write has already taken effect, or never will.
    """


class Compacted(NodectlError):
    """etcd has compacted the requested revision: list the keys again, then watch from the revision of that listing."""

    code = "compacted"

    def __init__(self, revision: int) -> None:
        super().__init__(f"etcd has compacted up to revision {revision}")
        self.revision = revision


class LeaseLost(NodectlError):
    """The lease has expired or, by this program's clock, may have expired. Its keys must be regarded as deleted."""

    code = "lease_lost"


class Garbage(NodectlError):
    """A value, such as that of a key in etcd or an answer, cannot be decoded."""

    code = "garbage"


_BY_CODE: dict[str, type[NodectlError]] = {
    kind.code: kind
    for kind in (NodectlError, Invalid, Refused, TooLarge, NotFound, Conflict, TooOld, IdReused, IdClosed,
                 ResultForgotten, Unavailable, NoSpace, NodeUnavailable, NotLeader, LeadershipLost, Denied,
                 Unauthenticated, Forbidden, TimedOut, OutcomeUnknown, Compacted, LeaseLost, Garbage)
}  # fmt: skip


def from_code(code: str, message: str) -> NodectlError:
    """The error of a problem document with this `code`; for an unknown code a plain NodectlError."""
    kind = _BY_CODE.get(code, NodectlError)
    if kind is Compacted:
        return NodectlError(message)
    return kind(message)
