"""`nodectl demo`: every promise holds; with a guarantee taken out of masterd one does not; nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dev_commands import argv, environment, left_behind, nodectl, sabotaged
from tests.support.waiting import eventually

ENDS_S = 60.0


def verdicts(described: dict[str, list[dict[str, object]]]) -> dict[str, bool]:
    return {str(item["promise"]): bool(item["held"]) for item in described["promises"] if item["tried"]}


def test_every_promise_holds_and_nothing_is_left(tmp_path: Path) -> None:
    ran = nodectl("demo", "--seed", "7", "--dir", tmp_path / "demo", "-o", "json")
    assert ran.code == 0, ran.stderr + ran.stdout
    assert ran.json["held"] is True
    assert len(verdicts(ran.json)) == 7
    assert "| n9" in ran.stderr
    assert not (tmp_path / "demo").exists()
    assert left_behind(tmp_path) == []


@pytest.mark.nightly
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_masterd_that_does_not_know_its_commands_again_is_found_out(tmp_path: Path, seed: str) -> None:
    place = tmp_path / "demo"
    ran = nodectl("demo", "--seed", seed, "--dir", place, "--acts", "kill", env=sabotaged("deduplication"))
    assert ran.code == 1, ran.stderr + ran.stdout
    assert "BROKEN" in ran.stdout
    assert "its repeat ran again as index" in ran.stdout
    assert str(place / "log") in ran.stdout
    assert (place / "log" / "m1.log").exists()
    assert left_behind(place) == []


@pytest.mark.nightly
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_masterd_that_writes_without_a_fence_is_found_out(tmp_path: Path, seed: str) -> None:
    place = tmp_path / "demo"
    ran = nodectl("demo", "--seed", seed, "--dir", place, "--acts", "freeze", "-o", "json", env=sabotaged("fence"))
    assert ran.code == 1, ran.stderr + ran.stdout
    assert verdicts(ran.json)["A deposed master changes nothing"] is False
    assert any("forks" in fault for item in ran.json["promises"] for fault in item["faults"])
    assert left_behind(place) == []


def _started(place: Path, story: Path) -> subprocess.Popen[bytes]:
    with story.open("wb") as out:
        return subprocess.Popen(argv("demo", "--dir", place), env=environment(), stdout=out, stderr=out)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "times"), [(signal.SIGINT, 2), (signal.SIGTERM, 1), (signal.SIGHUP, 1)])
async def test_a_demo_that_is_ended_leaves_nothing(tmp_path: Path, number: signal.Signals, times: int) -> None:
    place, story = tmp_path / "demo", tmp_path / "story"
    demo = _started(place, story)
    try:
        await eventually(lambda: b"starting 3 masterd" in story.read_bytes(), timeout_s=ENDS_S)
        for _ in range(times):
            os.kill(demo.pid, number)
        await eventually(lambda: demo.poll() is not None, timeout_s=ENDS_S)
    finally:
        demo.kill()
    assert demo.wait() == 128 + number, story.read_text()
    assert not place.exists()
    assert left_behind(place) == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is told that its parent was killed")
async def test_even_a_demo_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    place, story = tmp_path / "demo", tmp_path / "story"
    demo = _started(place, story)
    try:
        await eventually(lambda: b"starting 3 masterd" in story.read_bytes(), timeout_s=ENDS_S)
    finally:
        demo.kill()
        demo.wait()
    await eventually(lambda: left_behind(place) == [])


def test_a_reader_that_goes_away_ends_the_demo(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    with subprocess.Popen(argv("demo", "--dir", place), env=environment(), stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        demo.stdout.close()
        assert demo.wait(ENDS_S) == 1
    assert not place.exists()
    assert left_behind(place) == []


@pytest.mark.nightly
def test_a_cluster_that_stays_is_one_that_dev_knows(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    ran = nodectl("demo", "--stay", "--dir", place, "--acts", "scene,kill")
    try:
        assert ran.code == 0, ran.stderr + ran.stdout
        status = nodectl("dev", "status", "--dir", place, "-o", "json").json
        assert status["running"] is True
        command = next(line.split() for line in ran.stdout.splitlines() if line.endswith(" status"))
        shown = nodectl(*command[1:], "-o", "json")
        assert len(shown.json["nodes"]) == 9
        assert f"nodectl dev down --dir {place}" in ran.stdout
    finally:
        assert nodectl("dev", "down", "--dir", place).code == 0
    assert left_behind(place) == []


def test_a_directory_with_something_in_it_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    ran = nodectl("demo", "--dir", tmp_path)
    assert ran.code == 4
    assert "not empty" in ran.stderr
    assert (tmp_path / "mine").read_text() == "precious"


def test_an_unknown_act_is_refused() -> None:
    assert nodectl("demo", "--acts", "juggling").code == 2
