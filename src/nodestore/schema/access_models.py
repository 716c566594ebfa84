"""The models of access control in etcd: who may use masters, and who may join the cluster. See `models`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nodesdk.models import Model, Stored

Role = Literal["viewer", "operator", "maintainer", "admin"]
"""What people may do, from the least to the most. Each role may do what those before it may. viewer: read. operator:
commands of the application, and actions other than reboot. maintainer: configuration, leadership, snapshots, reboot.
admin: access control."""


class AccessControl(Stored):
    """`access/control`: whether requests to masters need a credential. It is off until this was written once."""

    enabled: bool
    actor: str
    time: float


class Grant(Stored):
    """`access/grants/<id>`: gives a role to the bearer of a token, or to the holder of a certificate."""

    name: str = Field(description="the name by which history and log show the bearer")
    kind: Literal["token", "certificate"] = Field(
        description="certificate: a verified certificate with the subject `CN=operator:<name>`"
    )
    role: Role
    commands: tuple[str, ...] = Field(
        default=(), description="patterns of the names of commands that it may send, such as `scene.*`; empty: all"
    )
    groups: tuple[str, ...] = Field(
        default=(), description="groups whose nodes its commands may change; empty: all nodes"
    )
    hash: str = Field(default="", description="SHA-256 of the token's secret, in hexadecimal digits")
    actor: str
    time: float
    ends: float | None = Field(default=None, description="from this time on it is not valid; null: it has no end")


class CredentialUse(Stored):
    """`access/uses/<id>`: when a token, or the certificate of a person, was last used. It may be some minutes old."""

    time: float
    address: str = Field(default="", description="the IP address that the request came from")
    master: str = Field(default="", description="the masterd that received it")


class BrowserSession(Stored):
    """`access/sessions/<id>`: the session of a web browser at one master, with the lease of its login. It ends when
    the key is deleted. Its role and limits are those of the grant."""

    grant: str = Field(description="the id of the grant, `access/grants/<id>`, of the token that logged in")
    hash: str = Field(description="SHA-256 of the cookie's secret, in hexadecimal digits")
    lease: int = Field(
        description="the lease of the login: all sessions that came of it have the same, and end together"
    )
    idle_s: float = Field(description="the TTL of the lease: the session ends after so many seconds without a request")
    address: str = Field(description="the IP address that began it")
    time: float
    ends: float = Field(description="from this time on it is not valid, however much it is used")


class MoveCode(Stored):
    """`access/codes/<id>`: a code that takes a browser session to another master, once. It has a lease of its own."""

    hash: str = Field(description="SHA-256 of the code's secret, in hexadecimal digits")
    session: str = Field(description="the id of the session that asked for it")
    origin: str = Field(description="the only address at which it is accepted, such as `https://pc2:8401`")
    time: float


JoinKind = Literal["node", "host", "operator"]
"""What the bearer of a join token may become. node: a PC that runs noded only. host: a PC that may also run a member
and a masterd. operator: the holder of a certificate for one person."""


class JoinUse(Model):
    """One use of a join token."""

    by: str = Field(description="who used it: the same text again is a repeat, which is no further use")
    time: float
    address: str = ""


class JoinToken(Stored):
    """`access/joins/<id>`: lets PCs or a person get certificates of the cluster. It opens no other request."""

    kind: JoinKind
    name: str = Field(default="", description="the only name that it is for; empty: any name of its kind")
    hash: str = Field(description="SHA-256 of the token's secret, in hexadecimal digits")
    uses: int = Field(description="how often it may be used")
    used: tuple[JoinUse, ...] = ()
    actor: str
    time: float
    ends: float = Field(description="from this time on it is not valid")

    @property
    def uses_left(self) -> int:
        return max(0, self.uses - len(self.used))

    def is_used_by(self, by: str) -> bool:
        """Whether one of its uses is by `by`."""
        return any(use.by == by for use in self.used)
