"""`nodectl pki`: what an operator types and reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nodectl.__main__ import run
from nodectl.cli.commands.security import pki
from nodestore.pki import authority
from tests.support.cli import Ran

Pki = Callable[..., Ran]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Pki:
    monkeypatch.setenv("NODECTL_PKI_DIR", str(tmp_path / "pki"))

    def nodectl(*arguments: str) -> Ran:
        code = run(["pki", *arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "PRIVATE KEY" not in out + err
        return Ran(code, out, err)

    return nodectl


def test_from_init_to_revoke(call: Pki, tmp_path: Path) -> None:
    assert call("init", "--name", "plant").code == 0
    issued = call("issue", "masterd:pc1", "--address", "10.0.0.1", "--life", "2160h", "-o", "name")
    assert issued.out.strip() == str(tmp_path / "pki" / "issued" / "masterd-pc1")
    assert "up to date" in call("issue", "masterd:pc1").err
    assert "renewed" in call("renew", "--force").err
    found = json.loads(call("show", "-o", "json").out)
    assert [item["addresses"] for item in found["certificates"]] == [["10.0.0.1", "localhost", "127.0.0.1", "::1"]] * 2
    assert found["certificates"][0]["ends"] - found["certificates"][0]["issued"] == pytest.approx(90 * 86_400, abs=1)
    revoked = call("revoke", "masterd:pc1", "--yes")
    assert revoked.err.count("is revoked") == 2
    assert "ca.crl" in [path.name for path in (tmp_path / "pki").iterdir()]
    table = call("show").out
    assert table.count("revoked") == 2
    assert "KEY" in table.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("show",), 3, "pki init"),
        (("issue", "masterd:pc1"), 3, "pki init"),
        (("issue", "pc1"), 2, "is not KIND:NAME"),
        (("issue", "masterd:pc1", "--address", "a b"), 2, "neither a DNS name nor an IP address"),
        (("issue", "masterd:pc1", "--life", "1s"), 2, "'1s' is not between 5s and"),
        (("revoke", "masterd:pc1"), 2, "--yes"),
        (("revoke", "masterd:pc1", "--yes"), 3, "pki init"),
        (("init", "--name", "a/b"), 2, "cluster name"),
    ],
)
def test_a_mistake_is_one_clear_line(call: Pki, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (code, "")
    assert says in done.err.splitlines()[0]


def test_the_limits_of_a_life_are_those_of_the_authority() -> None:
    assert pki.LIFE_LIMITS_S == (authority.LIFE_MIN_S, authority.LIFE_MAX_S)
