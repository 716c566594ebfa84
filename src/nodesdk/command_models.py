"""The pydantic model of a command's arguments, from the signature of its handler. Pure."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, create_model

from nodesdk.application import Transaction
from nodesdk.errors import DefinitionError

_CONFIG = ConfigDict(extra="forbid", protected_namespaces=())


def arguments_model(command: str, function: Callable[..., Any]) -> type[BaseModel]:
    """The model whose fields are all parameters but the first. Its docstring is the function's.

    Raises DefinitionError, with one line, if the function cannot be a handler.
    """
    first, *others = _parameters(command, function)
    hints = _hints(command, function)
    if hints.get(first.name) is not Transaction:
        raise DefinitionError(f"command {command}: parameter {first.name!r}, the first, must be a Transaction")
    fields = {parameter.name: _field(command, parameter, hints) for parameter in others}
    return _create(command, inspect.getdoc(function), fields)


def _parameters(command: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    forbidden_kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    if any(kind(function) for kind in forbidden_kinds):
        raise DefinitionError(
            f"command {command}: a handler must not be async or a generator, because it must not wait"
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise DefinitionError(f"command {command}: {function!r} is not a function") from None
    if not parameters:
        raise DefinitionError(f"command {command}: the handler has no parameter for the Transaction")
    return parameters


def _hints(command: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise DefinitionError(
            f"command {command}: the annotations of its handler cannot be resolved: {error}; define types at the top "
            "level of the module"
        ) from None


def _field(command: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> Any:
    if parameter.kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY):
        raise DefinitionError(f"command {command}: parameter {parameter.name!r} must accept its argument by name")
    if parameter.name.startswith("_"):
        raise DefinitionError(f"command {command}: parameter {parameter.name!r} must not begin with an underscore")
    if parameter.name not in hints:
        raise DefinitionError(f"command {command}: parameter {parameter.name!r} has no annotation")
    if hints[parameter.name] is Transaction:
        raise DefinitionError(f"command {command}: parameter {parameter.name!r} is a second Transaction")
    default = ... if parameter.default is inspect.Parameter.empty else parameter.default
    return hints[parameter.name], default


def _create(command: str, doc: str | None, fields: dict[str, Any]) -> type[BaseModel]:
    """Create the model. Its name in schemas is the command's name in camel case, with the suffix `Arguments`."""
    title = "".join(word[:1].upper() + word[1:] for word in command.replace("-", ".").replace("_", ".").split("."))
    title += "Arguments"
    try:
        with warnings.catch_warnings():
            # An argument may be called `copy` or `json`: fields of an instance come before methods of its class.
            warnings.filterwarnings("ignore", message="Field name .* shadows an attribute in parent")
            model: type[BaseModel] = create_model(title, __config__=_CONFIG, __doc__=doc, **fields)
            model.model_json_schema()
    except Exception as error:  # noqa: BLE001 - pydantic raises errors of several kinds, not all its own
        why = next(iter(str(error).splitlines()), repr(error))
        raise DefinitionError(f"command {command}: no model can be made of its arguments: {why}") from None
    return model
