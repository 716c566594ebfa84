"""requirements.lock is read as pip reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodectl.kits.lock import normalized, parse_lock
from nodestore.errors import Invalid

HASH = "sha256:" + "a" * 64


def test_entries_have_versions_markers_and_hashes() -> None:
    text = f"# a comment\nFoo_Bar==1.0 ; os_name == 'nt' \\\n    --hash={HASH} \\\n    --hash={HASH}\n    # via x\n"
    (pin,) = parse_lock(text, "lock")["foo-bar"]
    assert (pin.name, pin.version, pin.marker, pin.hashes) == (
        "Foo_Bar",
        "1.0",
        "os_name == 'nt'",
        (HASH, HASH),
    )
    assert pin.requirement() == f"Foo_Bar==1.0 --hash={HASH} --hash={HASH}"


def test_the_projects_own_lock_is_read_whole() -> None:
    text = (Path(__file__).parents[3] / "requirements.lock").read_text("utf-8")
    pins = parse_lock(text, "requirements.lock")
    assert sum(map(len, pins.values())) == sum("==" in line and not line.startswith(" ") for line in text.splitlines())
    assert sum(len(pin.hashes) for each in pins.values() for pin in each) == text.count("--hash=")
    assert {"grpcio", "cryptography", "colorama"} <= pins.keys()


@pytest.mark.parametrize("text", ["foo>=1\n", "foo==1\n", "-e .\n", f"foo==1 \\\n    --hash={HASH[:-1]}\n"])
def test_an_entry_without_a_version_or_a_hash_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="lock: "):
        parse_lock(text, "lock")


def test_names_are_compared_in_one_form() -> None:
    assert normalized("Foo._-Bar") == "foo-bar"
