"""Completion: the script of each shell, the words that nodectl offers, and that the shell never evaluates them."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodectl.cli import completion
from nodestore.errors import Invalid
from tests.support.cli import read_output
from tests.support.fakes.masterd import FakeCluster, fake_cluster, node_view

WAIT_S = 60.0
SHELLS = ("bash", "zsh", "fish", "powershell")
PROGRAM = Path(sys.executable).parent / ("nodectl.exe" if sys.platform == "win32" else "nodectl")


@dataclass(frozen=True)
class Ran:
    """How a program ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def words(self) -> list[str]:
        return self.out.split()


async def _run(argv: list[str], home: Path, environ: Mapping[str, str] = {}) -> Ran:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NODECTL_", "_NODECTL"))}
    path = os.pathsep.join([str(PROGRAM.parent), kept.get("PATH", "")])
    own = {"PATH": path, "HOME": str(home), "USERPROFILE": str(home), "NODECTL_CONFIG": str(home / "config.yaml")}
    child = await asyncio.create_subprocess_exec(
        *argv, env={**kept, **own, **environ}, cwd=home,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await read_output(child, WAIT_S)
    assert child.returncode is not None
    return Ran(child.returncode, out.decode(), err.decode())


async def _tab(line: str, home: Path, shell: str = "bash", environ: Mapping[str, str] = {}) -> Ran:
    """Return what nodectl offers this shell when Tab is pressed at the end of `line`."""
    words = line.split(" ")
    told = {
        "_NODECTL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_WORD_TO_COMPLETE": words[-1],
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }  # fmt: skip
    return await _run([str(PROGRAM)], home, {**told, **environ})


@asynccontextmanager
async def _wall() -> AsyncIterator[tuple[FakeCluster, str]]:
    """A cluster with something to name, and its endpoints."""
    async with fake_cluster() as cluster:
        for name in ("n1", "n2", "other"):
            cluster.nodes[name] = node_view(name, groups=["top"] if name == "n1" else [])
        for path in ("scenes/night", "scenes/noon", "nodes/n1", "notes/$(touch x)", "notes/a b"):
            cluster.documents[path] = {"index": 1, "document": {}}
        yield cluster, ",".join(cluster.urls)


# --- scripts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
async def test_every_shell_has_its_script(shell: str, tmp_path: Path) -> None:
    """For a named shell, whatever shell one is in."""
    ran = await _run([str(PROGRAM)], tmp_path, {"_NODECTL_COMPLETE": f"source_{shell}"})
    assert (ran.code, ran.err) == (0, "")
    assert "nodectl" in ran.out
    assert f"complete_{shell}" in ran.out
    shown = await _run(
        [str(PROGRAM), "--show-completion", shell], tmp_path, {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    )
    assert (shown.code, shown.out.strip(), shown.err) == (0, ran.out.strip(), "")


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/nodectl.sh"),
        ("zsh", ".zfunc/_nodectl"),
        ("fish", ".config/fish/completions/nodectl.fish"),
        ("powershell", "profile.ps1"),
    ],
)
async def test_scripts_are_installed(shell: str, file: str, tmp_path: Path) -> None:
    """Each script is installed where its shell reads it.

    PowerShell, which is asked for its profile, is replaced by a fake.
    """
    if shell == "powershell":
        if sys.platform == "win32":
            pytest.skip("it would change the profile of whoever runs this")
        likeness = tmp_path / "powershell"
        likeness.write_text(f"#!/bin/sh\necho {tmp_path / file}\n")
        likeness.chmod(0o755)
    environ = {
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
        "PATH": os.pathsep.join([str(tmp_path), str(PROGRAM.parent), os.environ["PATH"]]),
    }
    ran = await _run([str(PROGRAM), "--install-completion", shell], tmp_path, environ)
    assert (ran.code, ran.err) == (0, "")
    assert f"complete_{shell}" in (tmp_path / file).read_text("utf-8")


async def test_a_shell_is_recognised(tmp_path: Path) -> None:
    """--show-completion without a name is for the shell that it is typed into."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    ran = await _run([bash, "-c", "nodectl --show-completion; exit $?"], tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert "complete_bash" in ran.out


@pytest.mark.parametrize(
    ("shell", "says"), [("dash", "there is no completion for dash"), (None, "the current shell cannot be detected")]
)
def test_another_shell_is_told_so(shell: str | None, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that names what to do instead."""
    import shellingham

    def detect() -> tuple[str, str]:
        if shell is None:
            raise shellingham.ShellDetectionFailure
        return shell, shell

    monkeypatch.setattr(shellingham, "detect_shell", detect)
    completion.check_shell(["node", "list"])
    with pytest.raises(Invalid, match=f"{says}.*source_bash nodectl"):
        completion.check_shell(["--show-completion"])


# --- in the shells themselves -----------------------------------------------------------------------------------------

_BASH = """
source "$1"
COMP_WORDS=(nodectl --endpoints "$2" node show n); COMP_CWORD=5
_nodectl_completion nodectl
printf '%s\\n' "${COMPREPLY[@]}"
complete -p nodectl
"""
_ZSH = """
compdef() { registered="$*" }
_arguments() { print -r -- "$@" }
source "$1"
words=(nodectl --endpoints "$2" node show n); CURRENT=6
_nodectl_completion
print -r -- "$registered"
"""
_FISH = """
source $argv[1]
complete -C "nodectl --endpoints $argv[2] node show n"
"""


@pytest.mark.parametrize(
    ("shell", "arguments", "expected"),
    [
        ("bash", ["--norc", "-c", _BASH, "bash"], ["n1", "n2", "complete", "-o", "default", "-F",
                                                   "_nodectl_completion", "nodectl"]),
        ("zsh", ["-f", "-c", _ZSH, "zsh"], ["*:", ':(("n1"', '"n2"))', "_nodectl_completion", "nodectl"]),
        ("fish", ["--no-config", "-c", _FISH], ["n1", "n2"]),
    ],
    ids=["bash", "zsh", "fish"],
)  # fmt: skip
async def test_a_real_shell_completes(shell: str, arguments: list[str], expected: list[str], tmp_path: Path) -> None:
    """The script, read by the shell that it is for, asks nodectl and takes its words."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    made = await _run([str(PROGRAM)], tmp_path, {"_NODECTL_COMPLETE": f"source_{shell}"})
    script.write_text(made.out, "utf-8")
    async with _wall() as (_, endpoints):
        ran = await _run([program, *arguments, str(script), endpoints], tmp_path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.words == expected


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", SHELLS)
async def test_commands_are_completed_for_every_shell(shell: str, tmp_path: Path) -> None:
    """Without a cluster, which need not be there for that."""
    ran = await _tab("nodectl node sh", tmp_path, shell)
    assert (ran.code, ran.err) == (0, "")
    assert "show" in ran.out
    assert "list" not in ran.out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("node show ", ["n1", "n2", "other"]),
        ("node set n", ["n1", "n2"]),
        ("node watch n1 o", ["other"]),
        ("node list --group ", ["all", "top"]),
        ("scene apply n", ["night", "noon"]),
        ("scene apply night -g t", ["top"]),
        ("master switchover ", ["m1", "m2"]),
        ("state get no", ["nodes/n1"]),
        ("node show zebra", []),
    ],
)
async def test_names_come_from_any_master(line: str, expected: list[str], tmp_path: Path) -> None:
    """From what it has in memory; words that a shell might evaluate are left out."""
    async with _wall() as (_, endpoints):
        ran = await _tab(f"nodectl -e {endpoints} {line}", tmp_path)
    assert (ran.code, ran.words, ran.err) == (0, expected, "")


async def test_the_environment_names_the_cluster_too(tmp_path: Path) -> None:
    """Completion reads the cluster from the environment, as every command does."""
    async with _wall() as (_, endpoints):
        ran = await _tab("nodectl node show n", tmp_path, environ={"NODECTL_ENDPOINTS": endpoints})
    assert (ran.code, ran.words, ran.err) == (0, ["n1", "n2"], "")


async def test_clusters_come_from_the_configuration_file(tmp_path: Path) -> None:
    """And a file that makes no sense completes nothing."""
    (tmp_path / "config.yaml").write_text("clusters: {home: {endpoints: 'a:1'}, work: {endpoints: 'b:1'}}\n")
    assert (await _tab("nodectl --cluster-name h", tmp_path)).words == ["home"]
    (tmp_path / "config.yaml").write_text("clusters: [\n")
    ran = await _tab("nodectl --cluster-name h", tmp_path)
    assert (ran.code, ran.words, ran.err) == (0, [], "")


@pytest.mark.parametrize(
    "where", ["", "-e http://127.0.0.1:{refusing}", "-e 127.0.0.1:{refusing} --cluster x", "-e nonsense", "-c nowhere",
              "-e http://127.0.0.1:{silent}", "-e http://no.such.host.invalid:1", "--ca missing.pem -e https://h:1"],
)  # fmt: skip
async def test_nobody_there_is_no_word_and_no_error(where: str, tmp_path: Path) -> None:
    """Whether it refuses, is silent, cannot be found, or is not even a cluster."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        ports = {"silent": silent.getsockname()[1], "refusing": refusing.getsockname()[1]}
        ran = await _tab(f"nodectl {where.format(**ports)} node show ".replace("  ", " "), tmp_path)
    assert (ran.code, ran.words, ran.err) == (0, [], "")


async def test_a_shell_hears_words_or_nothing(tmp_path: Path) -> None:
    """Even when the question itself is wrong: what is written to stderr would land in the middle of the line."""
    ran = await _tab("nodectl node show ", tmp_path, "nosuch")
    assert (ran.words, ran.err) == ([], "")


async def test_an_answer_that_makes_no_sense_is_no_word(tmp_path: Path) -> None:
    """A proxy's page, or a master of another age."""
    async with _wall() as (cluster, endpoints):
        cluster.nodes = {"n1": {"called": "n1"}}
        ran = await _tab(f"nodectl -e {endpoints} node show ", tmp_path)
    assert (ran.code, ran.words, ran.err) == (0, [], "")
