"""Reads and checks an inventory file. All mistakes are reported at once, each with its line and a hint.

The models keep unknown fields, because programs of different releases share them. In a file that a person writes, an
unknown field is a spelling mistake, so it is an error here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from nodectl.inventory.basis import Basis, split_basis
from nodectl.inventory.drivers import check_drivers
from nodectl.inventory.yaml_source import FileError, Source, YamlPath, YamlSource
from nodestore.errors import Invalid
from nodestore.schema.keys import check_name
from nodestore.schema.models import NAMED_SECTIONS, Inventory
from nodestore.support.json_rules import checked_copy


@dataclass(frozen=True, slots=True)
class InventoryFile:
    """A valid inventory: `data` as parsed, `inventory` as a model, `source` as the text of the file.

    basis: the version that the file says it was made from; `source` does not contain that line.
    """

    data: dict[str, Any]
    inventory: Inventory
    source: str
    name: str = ""
    basis: Basis | None = None
    warnings: tuple[str, ...] = ()


def load_inventory(path: Path, *, drivers: bool = True) -> InventoryFile:
    """Read the inventory at `path`, or stdin if it is `-`.

    Raises FileError, with a line for each mistake, if it is not valid. drivers: also check the settings of drivers.
    """
    return check_inventory(YamlSource.read(path), drivers=drivers)


def check_inventory(source: Source, *, drivers: bool = True) -> InventoryFile:
    """Check the inventory in a parsed file. Raises FileError, with a line for each mistake."""
    data = source.value
    if data is None:
        raise FileError([f"{source.name}: is empty: it needs at least `nodes:`"])
    if not isinstance(data, dict):
        raise FileError([f"{source.name}:1: expected fields such as `nodes:`, got {_describe(data)}"])
    _check_fields(source, Inventory, data, ())
    _check_names(source, data)
    _check_positions(source, data)
    _check_groups(source, data)
    inventory = _validate(source, data)
    warnings = check_drivers(source, data) if drivers else []
    basis, text = _basis(source)
    source.raise_problems()
    assert inventory is not None
    _check_leader_rules(source, data)
    return InventoryFile(data, inventory, text, source.name, basis, tuple(warnings))


def _basis(source: Source) -> tuple[Basis | None, str]:
    try:
        return split_basis(source.text)
    except ValueError as error:
        what = "the comment which says on which version the file is based is damaged: correct or remove it"
        source.add_problem((), what, line=int(error.args[0]))
        return None, source.text


def _check_leader_rules(source: Source, data: dict[str, Any]) -> None:
    """Raise FileError for what the leader would refuse to adopt, such as a number of more than 1,024 bits."""
    try:
        checked_copy({"inventory": data}, "the inventory")  # one level deeper, as in the record that the leader adopts
    except Invalid as error:
        raise FileError([f"{source.name}: {error}"]) from None


def _validate(source: Source, data: dict[str, Any]) -> Inventory | None:
    try:
        Inventory.model_validate(_tuples(data), strict=True)  # strict: "1" and true are not the number 1
        return Inventory.model_validate(data)
    except ValidationError as error:
        problems = _pydantic_problems(error, data)
        for where, message in problems.items():
            inside_another = any(where[:length] in problems for length in range(1, len(where)))
            is_repeated = not where and source.problems  # the model finds what _check_* found, but without a line
            if not inside_another and not is_repeated:
                source.add_problem(where, message)
        return None


def _tuples(value: Any) -> Any:
    """Replace lists by tuples, as strict validation requires."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _pydantic_problems(error: ValidationError, data: Any) -> dict[YamlPath, str]:
    problems: dict[YamlPath, str] = {}
    for item in error.errors(include_url=False):
        where: YamlPath = tuple(item["loc"])
        if "position" in where:
            where = where[: where.index("position") + 1]
        problems.setdefault(where, _explain(where, item["type"], item["msg"], _value_at(data, where)))
    return problems


def _explain(where: YamlPath, kind: str, message: str, value: Any) -> str:
    if where and where[-1] == "position":
        return f"expected two whole numbers [row, column], got {_describe(value)}"
    if kind == "missing":
        return "is missing"
    if kind == "string_type":
        quoted = f': write "{value}" in quotes' if isinstance(value, int | float | bool) else ""
        return f"expected text, got {_describe(value)}{quoted}"
    if kind in {"dict_type", "model_type", "model_attributes_type"}:
        none = ": write {} for no fields" if value is None else ""
        return f"expected fields (key: value), got {_describe(value)}{none}"
    if kind == "tuple_type":
        return f"expected a list, got {_describe(value)}"
    if kind == "int_type":
        return f"expected a whole number, got {_describe(value)}"
    text = message.removeprefix("Value error, ").removeprefix("Input should be ")
    return text if kind == "value_error" else f"expected {text}, got {_describe(value)}"


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "fields"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _value_at(data: Any, where: YamlPath) -> Any:
    for part in where:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


# --- fields ---------------------------------------------------------------------------------------------------------


def _check_fields(source: Source, model: type[BaseModel], data: Any, where: YamlPath) -> None:
    """Add a problem for every field that is unknown to `model` or to a model nested in it."""
    if not isinstance(data, dict):
        return  # the validation reports wrong types
    hints = typing.get_type_hints(model)
    for name, value in data.items():
        if name not in model.model_fields:
            source.add_unknown_problem((*where, name), model.model_fields, "this field")
            continue
        inner, many = _model_in(hints[name])
        if inner is None:
            continue
        if many and isinstance(value, dict):
            for key, item in value.items():
                _check_fields(source, inner, item, (*where, name, key))
        elif not many:
            _check_fields(source, inner, value, (*where, name))


def _model_in(hint: Any) -> tuple[type[BaseModel] | None, bool]:
    """The model of a field's value, and whether the field is a mapping of names to that model."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Union or origin is types.UnionType:
        return next((found for found in map(_model_in, arguments) if found[0] is not None), (None, False))
    if origin is dict:
        return _model_in(arguments[1])[0], True
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint, False
    return None, False


# --- meaning --------------------------------------------------------------------------------------------------------


def _section(data: dict[str, Any], name: str) -> Mapping[str, Any]:
    section = data.get(name)
    return section if isinstance(section, dict) else {}


def _check_names(source: Source, data: dict[str, Any]) -> None:
    for section, kind in NAMED_SECTIONS.items():
        for name in _section(data, section):
            try:
                check_name(kind, name)
            except Invalid as error:
                source.add_problem((section, name), str(error))


def _check_positions(source: Source, data: dict[str, Any]) -> None:
    node_at: dict[tuple[Any, ...], str] = {}
    for name, node in _section(data, "nodes").items():
        position = node.get("position") if isinstance(node, dict) else None
        if not isinstance(position, list) or not all(isinstance(number, int) for number in position):
            continue
        where: YamlPath = ("nodes", name, "position")
        other = node_at.setdefault(tuple(position), name)
        if other != name:
            place = source.place(("nodes", other, "position"))
            source.add_problem(where, f"{position} is already the position of node {other} ({place})")


def _check_groups(source: Source, data: dict[str, Any]) -> None:
    nodes = _section(data, "nodes")
    for name, group in _section(data, "groups").items():
        members = group.get("nodes") if isinstance(group, dict) else None
        for position, member in enumerate(members if isinstance(members, list) else []):
            if isinstance(member, str) and member not in nodes:
                where: YamlPath = ("groups", name, "nodes", position)
                known = ", ".join(list(nodes)[:9]) or "none"
                source.add_problem(where, f"node {member!r} is not among the nodes ({known})")
