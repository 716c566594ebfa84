"""What hostd remembers over restarts: what etcd said last, for which membership the data are, what was started how.

Each file is replaced atomically. A missing or unreadable one is as if nothing was remembered, except the mark of the
member: without it, data on this PC must not be used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from hostd.agent.plan import ListedMember, MemberMark
from hostd.pc.host_file import write_json
from nodestore.errors import Garbage
from nodestore.schema.models import Model, Stored, decode

S = TypeVar("S", bound=Stored)


class _Listed(Model):
    id: int
    name: str
    peer_url: str
    client_urls: tuple[str, ...]
    learner: bool


class _Known(Stored):
    state: str | None = None
    members: tuple[_Listed, ...] | None = None


class _Mark(Stored):
    id: int
    initial_cluster: dict[str, str]
    existing: bool


class _Applied(Stored):
    fingerprints: Mapping[str, str] = Field(default_factory=dict)


class HostMemory:
    """The files in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def known(self) -> tuple[str | None, tuple[ListedMember, ...] | None]:
        """The state of this PC and the members, as etcd said last."""
        found = self._read("known.json", _Known) or _Known()
        members = None
        if found.members is not None:
            members = tuple(
                ListedMember(**item.model_dump(include=set(_Listed.model_fields))) for item in found.members
            )
        return found.state, members

    def save_known(self, state: str | None, members: tuple[ListedMember, ...]) -> None:
        listed = tuple(
            _Listed(
                id=item.id, name=item.name, peer_url=item.peer_url, client_urls=item.client_urls, learner=item.learner
            )
            for item in members
        )
        self._write("known.json", _Known(state=state, members=listed))

    def mark(self) -> MemberMark | None:
        found = self._read("member.json", _Mark)
        return None if found is None else MemberMark(found.id, found.initial_cluster, found.existing)

    def save_mark(self, mark: MemberMark) -> None:
        self._write(
            "member.json", _Mark(id=mark.id, initial_cluster=dict(mark.initial_cluster), existing=mark.existing)
        )

    def applied(self) -> dict[str, str]:
        """By service: the fingerprint of the definition with which it was started last."""
        found = self._read("applied.json", _Applied)
        return {} if found is None else dict(found.fingerprints)

    def save_applied(self, fingerprints: dict[str, str]) -> None:
        self._write("applied.json", _Applied(fingerprints=fingerprints))

    def _read(self, name: str, model: type[S]) -> S | None:
        with contextlib.suppress(OSError, Garbage):
            return decode(model, (self._directory / name).read_bytes(), name)
        return None

    def _write(self, name: str, content: Stored) -> None:
        write_json(self._directory / name, content)
