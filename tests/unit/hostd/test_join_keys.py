"""The keys of a joining PC: kept while the cluster may know the PC by them, and in directories of its own."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hostd.pc.layout import Layout
from hostd.setup.join import JoinWish, join
from hostd.setup.steps import Steps
from hostd.signing.client import SignerClient, authority_hash
from hostd.signing.messages import AuthorityAnswer, JoinAnswer
from nodestore.errors import Conflict, Denied, Invalid, NodectlError, Overloaded, TimedOut, Unavailable
from nodestore.pki.authority import Authorities

_ID_AND_SECRET = f"{'0' * 16}.{'a' * 43}"
_ANSWER = JoinAnswer(
    cluster="wall", certificates={"hostd": {"pc2.txt": "no certificate"}}, endpoints=("127.0.0.1:2379",),
    signers=("127.0.0.1:8403",), members_wanted=3,
)  # fmt: skip


@pytest.fixture
def wish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JoinWish:
    """What pc2 is to be. Its signer needs no port."""
    Authorities(tmp_path / "pki").init("wall")
    authority = (tmp_path / "pki" / "ca.crt").read_text("ascii")

    async def fetch_authority(self: SignerClient, wanted_hash: str) -> AuthorityAnswer:
        assert wanted_hash == authority_hash(authority)
        return AuthorityAnswer(authority=authority, time=time.time())

    monkeypatch.setattr(SignerClient, "fetch_authority", fetch_authority)
    return JoinWish(
        signer="127.0.0.1", token=f"NCT1.{authority_hash(authority)}.{_ID_AND_SECRET}", host="pc2",
        address="127.0.0.2", kind="node", manager="processes", etcd=None,
    )  # fmt: skip


def _answers(monkeypatch: pytest.MonkeyPatch, answer: JoinAnswer | NodectlError) -> None:
    async def answered(*_: Any) -> JoinAnswer:
        if isinstance(answer, NodectlError):
            raise answer
        return answer

    monkeypatch.setattr(SignerClient, "join", answered)


@pytest.mark.parametrize(
    ("answer", "stay"),
    [
        (Denied("the token has ended"), False),
        (Conflict("the name is taken"), False),
        (Invalid("no address"), False),
        (Unavailable("no answer"), True),
        (Overloaded("it took longer than 60 s"), True),
        (TimedOut("too late"), True),
        (NodectlError("the signer answered with status 500, which is not understood"), True),
        (_ANSWER, True),  # it has let the PC in, which cannot write what it got
    ],
)
async def test_keys_are_removed_only_after_a_refusal(
    tmp_path: Path, wish: JoinWish, monkeypatch: pytest.MonkeyPatch, answer: JoinAnswer | NodectlError, stay: bool
) -> None:
    layout = Layout.of(tmp_path / "pc2")
    _answers(monkeypatch, answer)
    with pytest.raises(NodectlError):
        await join(layout, wish, Steps(lambda _: None))
    assert (layout.tls("hostd") / "pc2.key").exists() == stay
    assert layout.root.exists() == stay
    assert not layout.host_file.exists()


@pytest.fixture(params=[0o000, 0o077], ids=["000", "077"])
def unusual_umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
@pytest.mark.usefixtures("unusual_umask")
async def test_others_enter_the_directories_and_write_none_whatever_the_umask_is(
    tmp_path: Path, wish: JoinWish, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout.of(tmp_path / "pc2")
    _answers(monkeypatch, _ANSWER)
    with pytest.raises(NodectlError):
        await join(layout, wish, Steps(lambda _: None))
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (layout.root, *layout.root.rglob("*"))}
    private = {layout.tls("hostd"), layout.tls("noded")}
    assert {path for path, mode in modes.items() if path.is_dir() and mode == 0o700} == private
    assert {mode for path, mode in modes.items() if path.is_dir() and path not in private} == {0o755}
    assert {mode for path, mode in modes.items() if path.suffix == ".key"} == {0o600}
