"""The layout of the keys in etcd."""

from __future__ import annotations

import re

from nodesdk.names import check_name as check_name
from nodestore.errors import Invalid

ROOT = "/nodectl"
_INDEX_DIGITS = 16
_PATH = re.compile(r"[^/\x00-\x1f\x7f]+(?:/[^/\x00-\x1f\x7f]+)*")
PATH_BYTES_MAX = 512


def check_path(path: str) -> str:
    """Return `path` if it may name a document. Raises Invalid otherwise.

    It consists of non-empty segments joined by '/', none of them `.` or `..`, without control characters, and has at
    most 512 bytes in UTF-8.
    """
    has_dots = any(segment in (".", "..") for segment in path.split("/"))  # no URL can name such a document
    if has_dots or not _PATH.fullmatch(path) or len(path.encode("utf-8", "replace")) > PATH_BYTES_MAX:
        raise Invalid(
            f"document path {path!r} is not allowed: use segments joined by '/', none of them '.' or '..', at most "
            f"{PATH_BYTES_MAX} bytes"
        )
    return path


def prefix_end(prefix: str) -> bytes:
    """The first key after all keys that begin with `prefix` (etcd's range_end)."""
    raw = bytearray(prefix.encode())
    while raw:
        if raw[-1] < 0xFF:
            raw[-1] += 1
            return bytes(raw)
        raw.pop()
    return b"\0"


class Keys:
    """The keys of one cluster. Every attribute that ends in a slash is a prefix."""

    def __init__(self, cluster: str) -> None:
        self.cluster = check_name("cluster", cluster)
        self.prefix = root = f"{ROOT}/{cluster}/"
        self.epoch = root + "epoch"
        self.leader = root + "leader"
        self.terms = root + "terms/"
        self.candidates = root + "candidates/"
        self.paused = root + "paused"
        self.application = root + "application"
        self.challenges = root + "challenges/"
        self.answers = root + "answers/"
        self.head = root + "head"
        self.journal = root + "journal/"
        self.snapshots = root + "snapshots/"
        self.state = root + "state/"
        self.desired = root + "desired/"
        self.applied = root + "applied"
        self.config_current = root + "config/current"
        self.config_history = root + "config/history/"
        self.status = root + "status/"
        self.alive = root + "alive/"
        self.waiting = root + "waiting/"
        self.actions = root + "actions/"
        self.acted = root + "acted/"
        self.access_control = root + "access/control"
        self.grants = root + "access/grants/"
        self.joins = root + "access/joins/"
        self.uses = root + "access/uses/"
        self.browser_sessions = root + "access/sessions/"
        self.move_codes = root + "access/codes/"
        self.hosts = root + "hosts/"
        self.hosts_actual = root + "hosts-actual/"
        self.hosts_placement = root + "hosts-placement/"

    def term(self, nonce: str) -> str:
        return self.terms + nonce

    def candidate(self, master: str) -> str:
        return self.candidates + master

    def challenge(self, master: str) -> str:
        return self.challenges + master

    def answer(self, master: str) -> str:
        return self.answers + master

    def entry(self, last_index: int) -> str:
        """The key of the journal entry whose last command has this index. These keys sort by index."""
        return f"{self.journal}{last_index:0{_INDEX_DIGITS}d}"

    def entry_index(self, key: str) -> int:
        """The last index of the entry under `key`. ValueError if `key` names no entry."""
        name = key.removeprefix(self.journal)
        if len(name) != _INDEX_DIGITS or not name.isascii() or not name.isdigit():
            raise ValueError(f"{key!r} names no journal entry")
        return int(name)

    def snapshot(self, name: str) -> str:
        """The prefix of one snapshot, whose name is `<index>-<nonce>`."""
        return f"{self.snapshots}{name}/"

    def snapshot_name(self, index: int, nonce: str) -> str:
        return f"{index:0{_INDEX_DIGITS}d}-{nonce}"

    def document(self, path: str) -> str:
        return self.state + path

    def desired_of(self, node: str) -> str:
        return self.desired + node

    def status_of(self, node: str) -> str:
        return self.status + node

    def alive_of(self, node: str) -> str:
        return self.alive + node

    def waiting_of(self, node: str, nonce: str) -> str:
        """The key of one noded that waits for the claim of `node`; a node may have several."""
        return f"{self.waiting}{node}/{nonce}"

    def actions_of(self, node: str) -> str:
        return self.actions + node

    def acted_of(self, node: str) -> str:
        return self.acted + node

    def grant(self, grant_id: str) -> str:
        return self.grants + grant_id

    def join(self, token_id: str) -> str:
        return self.joins + token_id

    def use(self, grant_id: str) -> str:
        return self.uses + grant_id

    def host(self, host: str) -> str:
        return self.hosts + host

    @property
    def host_changes(self) -> str:
        """The key that every change of the set of hosts writes and compares, so that these changes have an order."""
        return self.hosts_placement + "changes"

    @property
    def host_placer(self) -> str:
        """The key of the hostd that may change etcd's members."""
        return self.hosts_placement + "placer"

    def host_actual(self, host: str) -> str:
        return self.hosts_actual + host

    def browser_session(self, session_id: str) -> str:
        return self.browser_sessions + session_id

    def move_code(self, code_id: str) -> str:
        return self.move_codes + code_id

    def config_version(self, version: int) -> str:
        return f"{self.config_history}{version:08d}"
