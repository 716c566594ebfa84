"""The bodies of requests to a signer and of its answers. Pure."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from nodestore.schema.host_models import HostKind, HostPorts


class AuthorityAnswer(BaseModel):
    """What everybody may know: the authority of the cluster. time: of the signer, in seconds since 1970."""

    authority: str = Field(max_length=65_536)
    time: float


class JoinRequest(BaseModel):
    """A PC asks to become part of the cluster. requests: by program, the request for its certificate, as PEM."""

    model_config = ConfigDict(extra="ignore")

    token: str = Field(max_length=512)
    host: str = Field(max_length=64)
    address: str = Field(max_length=64)
    kind: HostKind
    ports: HostPorts = HostPorts()
    requests: dict[str, str] = Field(max_length=16)
    version: str = Field(default="", max_length=64)


class JoinAnswer(BaseModel):
    """What a PC needs to know. certificates: by program, by name of the file."""

    cluster: str
    certificates: dict[str, dict[str, str]]
    endpoints: tuple[str, ...]
    signers: tuple[str, ...]
    members_wanted: int


class CertificatesRequest(BaseModel):
    """A PC of the cluster asks for its certificates. requests: by program, for the keys that it has."""

    requests: dict[str, str] = Field(max_length=16)


class CertificatesAnswer(BaseModel):
    """By program, by name of the file: the present certificates of a PC, or new ones."""

    certificates: dict[str, dict[str, str]]


class LeaveAnswer(BaseModel):
    """What became of a request to leave. left: the cluster has forgotten the PC."""

    left: bool


class Problem(BaseModel):
    """Why a request was refused. code: that of the error."""

    code: str
    detail: str
