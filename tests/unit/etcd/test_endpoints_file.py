"""A session follows the file of its endpoints: what is read from it, and what happens to calls and streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodestore.errors import Invalid
from nodestore.etcd.endpoints_file import read_endpoints
from nodestore.etcd.session import Etcd, EtcdSettings
from tests.support.waiting import eventually


class _Connection:
    """A connection that only notes whether it was closed."""

    def __init__(self, address: str) -> None:
        self.address, self.closed = address, False

    async def close(self) -> None:
        self.closed = True


def _session(made: dict[str, _Connection], *addresses: str, file: Path | None = None) -> Etcd:
    def connect(address: str) -> _Connection:
        made[address] = _Connection(address)
        return made[address]

    settings = EtcdSettings(endpoints=addresses, endpoints_file=file, call_timeout_s=0.01)
    return Etcd(settings, connect=connect)  # type: ignore[arg-type]


def test_endpoints_are_separated_by_commas_or_lines(tmp_path: Path) -> None:
    path = tmp_path / "endpoints"
    path.write_text("10.0.0.1:2379,https://10.0.0.2:2379\n 10.0.0.3:2379\n")
    assert read_endpoints(path) == ("10.0.0.1:2379", "10.0.0.2:2379", "10.0.0.3:2379")


@pytest.mark.parametrize("text", ["", "\n", "10.0.0.1", "10.0.0.1:port"])
def test_a_file_without_endpoints_is_refused_and_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "endpoints"
    path.write_text(text)
    with pytest.raises(Invalid, match=r"file of endpoints .*endpoints"):
        read_endpoints(path)
    with pytest.raises(Invalid, match=r"file of endpoints .*none: No such file"):
        read_endpoints(tmp_path / "none")


async def test_the_endpoint_in_use_stays_in_use_and_former_ones_are_closed() -> None:
    made: dict[str, _Connection] = {}
    async with _session(made, "a:1", "b:1") as etcd:
        first = dict(made)
        etcd.use_endpoints(("b:1", "a:1", "c:1"))
        assert etcd.endpoint == "a:1"
        assert etcd.settings.endpoints == ("b:1", "a:1", "c:1")
        assert {name: made[name] for name in first} == first  # those that stay are not opened anew
        etcd.use_endpoints(("c:1",))
        assert etcd.endpoint == "c:1"
        await eventually(lambda: made["a:1"].closed and made["b:1"].closed)
        assert not made["c:1"].closed
        with pytest.raises(Invalid):
            etcd.use_endpoints(())
        assert etcd.endpoint == "c:1"
    assert made["c:1"].closed


async def test_a_session_that_ends_at_once_closes_former_endpoints_too() -> None:
    made: dict[str, _Connection] = {}
    async with _session(made, "a:1") as etcd:
        etcd.use_endpoints(("b:1",))
    assert made["a:1"].closed
    assert made["b:1"].closed


async def test_a_changed_file_is_followed_and_an_unreadable_one_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nodestore.etcd.endpoints_file._CHECK_EVERY_S", 0.01)
    path = tmp_path / "endpoints"
    path.write_text("a:1")
    async with _session({}, "a:1", file=path) as etcd:
        path.write_text("b:1,a:1")
        await eventually(lambda: etcd.settings.endpoints == ("b:1", "a:1"))
        path.unlink()
        path.with_name("next").write_text("c:1")
        path.with_name("next").rename(path)
        await eventually(lambda: etcd.settings.endpoints == ("c:1",))
