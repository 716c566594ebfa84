"""`App`: commands and functions by decorators; whatever is defined wrongly is one clear line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from masterd.application.contract import load_application
from nodesdk import (
    App,
    Application,
    Command,
    ConfigChange,
    DefinitionError,
    HearsConfig,
    HearsNodes,
    Inventory,
    Name,
    NodeSeen,
    Spec,
    Transaction,
    View,
)
from nodesdk.scenes import BuiltinApp, scenes
from nodesdk.testing import AppHarness
from nodestore.errors import Invalid


class Size(BaseModel):
    """A model as the type of an argument."""

    width: int
    height: int = 1


def counter() -> App:
    app = App("counter", version="1.0")

    @app.command(quick=True)
    def add(tx: Transaction, name: Name, by: Annotated[int, Field(ge=1, description="how much")] = 1) -> int:
        """Add to a counter.

        A new one begins at 0.
        """
        value: int = (tx.get(f"counters/{name}") or {"value": 0})["value"] + by
        tx.put(f"counters/{name}", {"value": value})
        return value

    @app.command("sizes.set", help="set a size")
    def set_size(tx: Transaction, size: Size, *, json: bool = False, copy: list[int] = []) -> dict[str, Any]:  # noqa: B006
        copy.append(size.width * size.height)
        return {"json": json, "copy": copy}

    @app.command
    def read_all_(tx: Transaction) -> list[str]:
        return tx.paths("counters/")

    return app


def test_names_help_and_models_come_from_the_function() -> None:
    """The name is `<application>.<function>`; underscores become hyphens. The docstring is the help."""
    commands = counter().commands()
    assert {name: command.help for name, command in commands.items()} == {
        "counter.add": "Add to a counter.",
        "sizes.set": "set a size",
        "counter.read-all": "",
    }
    assert [command.quick for command in commands.values()] == [True, False, False]
    schema = commands["counter.add"].arguments.model_json_schema()
    assert (schema["title"], schema["required"], schema["additionalProperties"]) == (
        "CounterAddArguments", ["name"], False,
    )  # fmt: skip
    assert schema["properties"]["by"] == {
        "default": 1, "description": "how much", "minimum": 1, "title": "By", "type": "integer",
    }  # fmt: skip
    assert schema["description"] == "Add to a counter.\n\nA new one begins at 0."


def test_arguments_reach_the_function_as_their_types_say() -> None:
    """Models are made, defaults filled in and not shared; names such as `json` and `copy` are allowed."""
    harness = AppHarness(counter())
    assert harness.run("counter.add", name="a", by="2") == 2
    for _ in range(2):
        assert harness.run("sizes.set", size={"width": 3}) == {"json": False, "copy": [3]}
    assert harness.run("counter.read-all") == ["counters/a"]


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        ({}, "name: Field required"),
        ({"name": "../a"}, "name: String should match"),
        ({"name": "a/b"}, "name: String should match"),
        ({"name": "a", "by": 0}, "by: Input should be greater"),
        ({"name": "a", "bye": 1}, "bye: Extra inputs are not permitted"),
    ],
)
def test_wrong_arguments_are_refused_by_name(args: dict[str, Any], problem: str) -> None:
    """An argument that does not exist is a typing error."""
    with pytest.raises(Invalid, match=problem):
        AppHarness(counter()).run("counter.add", args)


def test_a_decorated_function_stays_a_function() -> None:
    """It may be called from other functions and from tests."""
    app = App("a")

    @app.command
    def double(tx: Transaction, value: int) -> int:
        return 2 * value

    class NoTransaction:
        pass

    assert double(NoTransaction(), 4) == 8  # type: ignore[arg-type]


# --- what is defined wrongly -----------------------------------------------------------------------------------------


def _no_annotation(tx: Transaction, name) -> None: ...  # type: ignore[no-untyped-def]


def _not_a_transaction(tx: int) -> None: ...


def _not_annotated(tx) -> None: ...  # type: ignore[no-untyped-def]


def _no_parameters() -> None: ...


async def _coroutine(tx: Transaction) -> None: ...


def _generator(tx: Transaction) -> Any:
    yield 1


def _two(tx: Transaction, other: Transaction) -> None: ...


def _args(tx: Transaction, *names: str) -> None: ...


def _positional(tx: Transaction, name: str, /) -> None: ...


def _unknown(tx: Transaction, name: Nothing) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def _not_json(tx: Transaction, call: Callable[[], None]) -> None: ...


def _underscore(tx: Transaction, _name: str) -> None: ...


def _good(tx: Transaction) -> None: ...


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (_no_annotation, "command x: parameter 'name' has no annotation"),
        (_not_a_transaction, "command x: parameter 'tx', the first, must be a Transaction"),
        (_not_annotated, "command x: parameter 'tx', the first, must be a Transaction"),
        (_no_parameters, "command x: the handler has no parameter for the Transaction"),
        (_coroutine, "command x: a handler must not be async"),
        (_generator, "command x: a handler must not be async or a generator"),
        (_two, "command x: parameter 'other' is a second Transaction"),
        (_args, "command x: parameter 'names' must accept its argument by name"),
        (_positional, "command x: parameter 'name' must accept its argument by name"),
        (_unknown, "command x: the annotations of its handler cannot be resolved: name 'Nothing' is not defined"),
        (_not_json, "command x: no model can be made of its arguments"),
        (_underscore, "command x: parameter '_name' must not begin with an underscore"),
    ],
)
def test_a_handler_that_cannot_work_is_one_line(function: Callable[..., Any], problem: str) -> None:
    """Raised where it is defined, not when the command comes."""
    with pytest.raises(DefinitionError, match=problem) as raised:
        App("a").command("x")(function)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("config.adopt", "reserved for masterd"),
        ("snapshot.restore", "reserved for masterd"),
        ("drill.mark", "reserved for masterd"),
        ("action.done", "reserved for masterd"),
        ("node.changed", "reserved for masterd"),
        ("a/b", "command name 'a/b' is not allowed"),
        ("", "command name '' is not allowed"),
    ],
)
def test_names_that_a_command_cannot_have(name: str, problem: str) -> None:
    """Those of masterd, and those that are no names."""
    with pytest.raises(DefinitionError, match=problem):
        App("a").command(name)(_good)


def test_every_part_is_defined_once() -> None:
    """A second definition would silently win."""
    app = App("a")
    app.command("x")(_good)
    with pytest.raises(DefinitionError, match="command x is defined twice"):
        app.command("x")(_good)
    app.node_document(lambda node: None)
    with pytest.raises(DefinitionError, match="application a: node_document is defined twice"):
        app.node_document(lambda node: None)


def test_other_parts_that_cannot_work_are_one_line() -> None:
    """Their parameters, and that they do not wait."""

    async def waits(tx: Transaction, change: ConfigChange) -> None: ...

    wrong: Any = lambda node: None  # noqa: E731
    with pytest.raises(DefinitionError, match=r"desired must be a function \(config, view, node\)"):
        App("a").desired(wrong)
    with pytest.raises(DefinitionError, match=r"on_node_change must be a function \(tx, node, seen\)"):
        App("a").on_node_change(wrong)
    with pytest.raises(DefinitionError, match="on_config_change must not be async"):
        App("a").on_config_change(waits)  # type: ignore[type-var]
    with pytest.raises(DefinitionError, match="extends=3 is not an application"):
        App("a", extends=3)  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="application name 'a b' is not allowed"):
        App("a b")


# --- what it extends -------------------------------------------------------------------------------------------------


def plant() -> App:
    app = App("plant", extends=scenes)

    @app.command
    def water(tx: Transaction, node: str) -> None:
        tx.put(f"nodes/{node}", {"water": True})

    return app


INVENTORY = {"nodes": {"n1": {}}, "defaults": {"driver": {"name": "process"}, "document": {"scene": "day"}}}


def test_an_extended_application_keeps_its_commands_documents_and_specs() -> None:
    """`node.set` and scenes stand next to one's own commands."""
    harness = AppHarness(plant(), INVENTORY)
    harness.run("plant.water", node="n1")
    harness.run("node.set", node="n1", values={"light": 3})
    assert harness.spec("n1") == Spec(driver="process", document={"scene": "day", "water": True, "light": 3})
    assert harness.app.node_document("n1") == "nodes/n1"  # type: ignore[attr-defined]


def test_own_parts_win_over_those_of_the_base() -> None:
    """Commands, `desired` and `node_document` override those of the base, which is not changed."""
    app = plant()

    @app.command("node.set")
    def node_set(tx: Transaction) -> str:
        return "mine"

    @app.desired
    def desired(config: Inventory, view: View, node: str) -> Spec | None:
        return Spec(driver="mine")

    app.node_document(lambda node: f"plants/{node}")
    harness = AppHarness(app, INVENTORY)
    assert harness.run("node.set") == "mine"
    assert harness.spec("n1") == Spec(driver="mine")
    assert (app.node_document("n1"), scenes.node_document("n1")) == ("plants/n1", "nodes/n1")
    assert scenes.commands()["node.set"].quick


def test_handlers_of_changes_are_inherited() -> None:
    """An App can be extended too. Without a handler, masterd does not report nodes to it."""
    base = App("base")
    heard: list[str] = []
    base.on_node_change(lambda tx, node, seen: heard.append(node))
    base.on_config_change(lambda tx, change: heard.extend(change.added))
    harness = AppHarness(App("child", extends=base), INVENTORY)
    harness.node_changed("n1")
    assert heard == ["n1", "n1"]
    assert not isinstance(App("other", extends=BuiltinApp), HearsNodes | HearsConfig)


# --- how masterd finds it --------------------------------------------------------------------------------------------

_PLANT = plant()


class ClassForm:
    name = "class"

    def commands(self) -> dict[str, Command]:
        return {}

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        return None

    def node_changed(self, transaction: Transaction, node: str, seen: NodeSeen) -> None: ...


_CLASS_INSTANCE = ClassForm()


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (f"{__name__}:_PLANT", "plant"),
        (f"{__name__}:ClassForm", "class"),
        (f"{__name__}:_CLASS_INSTANCE", "class"),
        (f"{__name__}:plant", "plant"),
        ("scenes", "scenes"),
        ("wall", "scenes"),
    ],
    ids=["App", "class", "instance", "factory", "entry point", "its former name"],
)
def test_masterd_runs_an_app_a_class_and_an_instance(where: str, name: str) -> None:
    """By `module:attribute`, or by the entry point of a package."""
    found = load_application(where)
    assert isinstance(found, Application)
    assert found.name == name


def test_an_application_that_is_defined_wrongly_is_one_line_of_masterd(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends masterd with its usual message for wrong options."""
    source = "from nodesdk import App\napp = App('a')\n@app.command\ndef f(x): ...\n"
    (tmp_path / "wrongly_defined.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Invalid, match=r"command a\.f: parameter 'x', the first, must be a Transaction"):
        load_application("wrongly_defined:app")
