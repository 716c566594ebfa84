"""The verdict on the files of a run on hosts accepts a correct run, made by a simulation, and detects each change."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from masterd.application.contract import View
from nodestore.schema.models import Desired, Inventory, Spec, decode
from tests.faults.checkers import final_store
from tests.faults.checkers.history import Event, Recorder
from tests.faults.hosts.judgement import verdict
from tests.simulation import judge
from tests.simulation.app import SimApp
from tests.simulation.checkers import recording, watched
from tests.simulation.runs import good_run
from tests.simulation.world import World
from tests.support.fakes.clock import VirtualTime

STORE, CLIENT, REGISTERS = "history-store.jsonl", "history-c1.jsonl", "history-c2.jsonl"


class FileApp(SimApp):
    """The simulated application with the `file` driver, as on hosts."""

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        spec = super().desired(config, view, node)
        return spec and spec.model_copy(update={"driver": "file", "settings": {"path": "shown.json"}})


def write(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))


def line(event: Event) -> str:
    own: dict[str, Any] = {"at": event.at, "process": event.process, "type": event.type, "op": event.op}
    return json.dumps({**own, **({} if event.call is None else {"call": event.call}), **event.fields})


def keep(world: World, directory: Path) -> None:
    """Write the files that a run on hosts leaves."""
    of_store = watched(world)
    others = [event for event in recording(world) if event not in of_store and "driver" not in event.process]
    write(directory / STORE, map(line, of_store))
    write(directory / CLIENT, map(line, sorted(others, key=lambda event: event.at)))
    with Recorder(directory / REGISTERS, clock=iter(float(number) for number in range(100)).__next__) as record:
        for value in ("one", "two"):
            record.ok(record.invoke("c2", "write", key="r0", value=value))
            record.ok(record.invoke("c2", "read", key="r0"), value=value)
    found = judge.history_of(world.server, world.keys).keys
    names = {key.removeprefix(world.keys.prefix): value for key, value in found.items()}
    (directory / "store.jsonl").write_text("".join(final_store.line(key, value) for key, value in names.items()))
    for name in world.nodes:
        orders = [event.fields for event in world.events if event.process == f"{name}'s driver"]
        write(directory / f"log/{name}-noded.log", (_log_line(name, **of) for of in orders))
        if f"desired/{name}" in names:
            desired = decode(Desired, names[f"desired/{name}"], name)
            write(directory / f"disk/{name}/noded/shown.json", [json.dumps(desired.spec.document)])
    run = {"seed": 1, "duration_s": 0.0, "clients": ["client"], "readers": ["reader"]}
    write(directory / "schedule.jsonl", map(json.dumps, [{"run": run}, {"ended": "complete", "at": 9.0}]))


def _log_line(node: str, epoch: int, term: int, generation: int) -> str:
    return f"10:00 I noded {node}: obeys order {epoch}.{term}.{generation} (epoch.term.generation)"


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a correct run."""
    directory = tmp_path_factory.mktemp("kept")
    with VirtualTime() as time:
        world = World(time, application=FileApp)
        world.run(good_run(world))
        keep(world, directory)
        world.run(world.close())
    return directory


@pytest.fixture
def run(right: Path, tmp_path: Path) -> Path:
    """A copy of these files, to be changed."""
    for path in right.rglob("*"):
        if path.is_file():
            write(tmp_path / path.relative_to(right), path.read_text().splitlines())
    return tmp_path


def judged(directory: Path) -> list[str]:
    return verdict.judge(directory, lambda line: None)


def test_a_run_in_which_all_went_well_is_right(right: Path) -> None:
    """The verdict on the unchanged files is empty, the first time and again."""
    assert judged(right) == []
    assert judged(right) == []


# --- changes --------------------------------------------------------------------------------------------------


def change(path: Path, pattern: str, instead: Callable[[str], list[str]], which: int = -1) -> None:
    """Replace one of the lines that match `pattern`, by default the last."""
    lines = path.read_text().splitlines()
    number = [number for number, line in enumerate(lines) if re.search(pattern, line)][which]
    lines[number : number + 1] = instead(lines[number])
    write(path, lines)


def an_entry_not_recorded(run: Path) -> None:
    change(run / STORE, '"op": "entry"', lambda line: [], which=3)


def another_index_acknowledged(run: Path) -> None:
    change(run / CLIENT, '"type": "ok"', lambda line: [re.sub(r'"index": \d+', '"index": 1', line)])


def a_read_of_the_past(run: Path) -> None:
    change(run / REGISTERS, '"value":"two"', lambda line: [line.replace("two", "one")])


def an_event_not_received(run: Path) -> None:
    change(run / CLIENT, '"op": "event"', lambda line: [], which=2)


def an_older_order_obeyed(run: Path) -> None:
    change(run / "log/n1-noded.log", "obeys", lambda line: [line, _log_line("n1", 1, 2, 1)])


def another_file_shown(run: Path) -> None:
    write(run / "disk/n1/noded/shown.json", ['{"x": 77}'])


def no_file_shown(run: Path) -> None:
    (run / "disk/n1/noded/shown.json").unlink()


def an_entry_truncated(run: Path) -> None:
    change(run / "store.jsonl", '"key": "journal/', lambda line: [])


def another_document_in_the_view(run: Path) -> None:
    change(run / "store.jsonl", '"key": "state/lists/0', lambda line: [line.replace("items", "other")])


def a_document_put_back(run: Path) -> None:
    """Record an older document again, as by a deposed leader."""
    lines = (run / STORE).read_text().splitlines()
    old = next(json.loads(line) for line in lines if '"key": "state/lists/0"' in line)
    write(run / STORE, [*lines, json.dumps({**old, "at": 9000.0, "revision": 9000})])


def a_truncation_while_nobody_leads(run: Path) -> None:
    lines, late = (run / STORE).read_text().splitlines(), {"process": "watch", "type": "seen"}
    ended = {**late, "at": 9000.0, "op": "vacant", "revision": 9000}
    cut = {**late, "at": 9001.0, "op": "deleted", "revision": 9001, "key": "journal/0000000000000001"}
    write(run / STORE, [*lines, json.dumps(ended), json.dumps(cut)])


def no_store(run: Path) -> None:
    (run / "store.jsonl").unlink()


def a_hole_in_the_record(run: Path) -> None:
    lines = (run / STORE).read_text().splitlines()
    hole = {"at": 9000.0, "process": "watch", "type": "seen", "op": "hole", "first": 5, "last": 7}
    write(run / STORE, [*lines, json.dumps(hole)])


def a_program_with_a_mistake(run: Path) -> None:
    write(run / "log/m1-masterd.log", ["Traceback (most recent call last):"])


TAMPERED: list[tuple[Callable[[Path], None], str]] = [
    (an_entry_not_recorded, "no gap, no fork: the journal's indexes are not 1, 2, 3"),
    (another_index_acknowledged, "exactly once: command"),
    (another_index_acknowledged, "real time: command"),
    (a_read_of_the_past, "linearizable: r0 is not linearizable"),
    (an_event_not_received, "streams: reader heard index"),
    (an_older_order_obeyed, "nodes, by their logs: n1 obeyed"),
    (another_file_shown, "nodes: n1 shows {'x': 77}"),
    (no_file_shown, "nodes: n1 shows nothing"),
    (an_entry_truncated, "truncation: "),
    (another_document_in_the_view, "views: state/lists/0: the view has"),
    (a_document_put_back, "deposed leaders: state/lists/0 was put as of index"),
    (a_truncation_while_nobody_leads, "while nobody led"),
    (no_store, "what the store had in the end was not kept"),
    (a_hole_in_the_record, "has lost revisions 5 to 7"),
    (a_program_with_a_mistake, "m1-masterd.log, line 1"),
]


@pytest.mark.parametrize(("tamper", "what"), TAMPERED, ids=lambda item: getattr(item, "__name__", "in"))
def test_what_is_changed_is_found(run: Path, tamper: Callable[[Path], None], what: str) -> None:
    """The function that judges runs on hosts reports the change."""
    tamper(run)
    found = judged(run)
    assert any(what in line for line in found), found
