"""Checks the drivers of an inventory and their settings, as far as the drivers are installed on this PC.

A driver may have the attribute `settings_model`, a pydantic model. The drivers are found by their entry points, so this
module names none of them. A driver that is not installed here may be installed on the nodes; that is only a warning.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from pydantic import BaseModel, ValidationError

from nodectl.inventory.yaml_source import Source, YamlPath
from nodesdk.driver import GROUP

_ALMOST = 0.7
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Place:
    """A `driver:` in the file, with the settings that it inherits.

    own: the path of the `driver:` in the file. settings: the settings written there. shared: the settings of the
    default driver, which `settings` overrides; empty if the default is another driver.
    is_complete: whether a node uses these settings as they are. If not, missing settings are no mistake.
    """

    own: YamlPath
    name: str
    settings: Fields
    shared: Fields
    is_complete: bool = True

    def path_of(self, where: YamlPath) -> YamlPath:
        """The path in the file of the setting at `where`."""
        is_shared = bool(where) and where[0] in self.shared and where[0] not in self.settings
        return (*(_DEFAULT if is_shared else self.own), "settings", *where)


_DEFAULT: YamlPath = ("defaults", "driver")


def check_drivers(source: Source, data: Fields) -> list[str]:
    """Add a problem for each mistake in the settings of an installed driver. Return warnings, each with its line."""
    known = {entry.name: entry for entry in entry_points(group=GROUP)}
    models: dict[str, type[BaseModel] | None] = {}
    warnings: dict[str, None] = {}
    for place in _places(data):
        if place.name not in known:
            where = (*place.own, "name")
            near = difflib.get_close_matches(place.name, known, n=1, cutoff=_ALMOST)
            if near:
                source.add_problem(where, f"there is no driver {place.name!r}; did you mean {near[0]!r}?")
            else:
                installed = ", ".join(sorted(known)) or "none"
                text = f"driver {place.name!r} is not installed on this PC ({installed}): its settings are not checked"
                warnings[f"{source.name}:{source.line(where)}: {'.'.join(map(str, where))}: {text}"] = None
            continue
        if place.name not in models:
            models[place.name] = _model_of(known[place.name])
        model = models[place.name]
        if model is not None:
            _check_settings(source, place, model)
    return list(warnings)


def _model_of(entry: Any) -> type[BaseModel] | None:
    try:
        model = getattr(entry.load(), "settings_model", None)
    except Exception:  # noqa: BLE001 - importing a stranger's driver can raise anything; the node reports it
        return None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _places(data: Fields) -> Iterator[_Place]:
    """The effective driver of each node, and the default driver if no node uses it."""
    default = _driver(_fields(data.get("defaults")))
    inherited = False
    for name, node in _fields(data.get("nodes")).items():
        own = _driver(_fields(node))
        if own is None and default is not None:
            if not inherited:  # once for all nodes
                yield _Place(_DEFAULT, *default, shared={})
            inherited = True
        elif own is not None:
            shares = default is not None and default[0] == own[0]
            yield _Place(("nodes", name, "driver"), *own, shared=default[1] if shares and default else {})
    if default is not None and not inherited:
        yield _Place(_DEFAULT, *default, shared={}, is_complete=False)


def _driver(fields: Fields) -> tuple[str, Fields] | None:
    """Name and settings of a `driver:`; None if there is none, or if it is malformed, which other checks report."""
    driver = fields.get("driver")
    if not isinstance(driver, dict) or not isinstance(driver.get("name"), str):
        return None
    settings = driver.get("settings", {})
    return (driver["name"], settings) if isinstance(settings, dict) else None


def _fields(value: Any) -> Fields:
    return value if isinstance(value, dict) else {}


def _check_settings(source: Source, place: _Place, model: type[BaseModel]) -> None:
    try:
        model.model_validate({**place.shared, **place.settings})
    except ValidationError as error:
        for item in error.errors(include_url=False):
            if place.is_complete or item["type"] not in ("missing", "value_error"):
                _add_problem(source, place, model, item)


def _add_problem(source: Source, place: _Place, model: type[BaseModel], item: Any) -> None:
    where: YamlPath = tuple(item["loc"])
    path = place.path_of(where)
    if item["type"] == "extra_forbidden" and len(where) == 1:
        source.add_unknown_problem(path, model.model_fields, f"this setting of driver {place.name}")
    elif item["type"] == "missing":
        source.add_problem(path, f"is missing: driver {place.name} needs it")
    else:
        message = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        source.add_problem(path, message if item["type"] == "value_error" else f"expected {_lower(message)}")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
