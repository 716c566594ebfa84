"""`App`: an application from decorated functions. Pure.

    app = App("counter", version="1.0")

    @app.command
    def add(tx: Transaction, name: Name, by: int = 1) -> int:
        "Add to a counter."

An `App` implements the protocol `Application`, as a class with the methods of that protocol does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, overload

from nodesdk.application import Application, Command, ConfigChange, NodeSeen, Transaction, View
from nodesdk.command_models import arguments_model
from nodesdk.errors import DefinitionError, Invalid
from nodesdk.json_types import Document, Json
from nodesdk.models import Inventory, Spec, check_secret_field
from nodesdk.names import check_name

RESERVED_PREFIXES = ("action.", "config.", "drill.", "snapshot.")
RESERVED_NAMES = ("command.close", "node.changed", "time.reset")

F = TypeVar("F", bound=Callable[..., Json])
DesiredFunction = Callable[[Inventory, View, str], Spec | None]
NodeFunction = Callable[[Transaction, str, NodeSeen], None]
ConfigFunction = Callable[[Transaction, ConfigChange], None]
DocumentFunction = Callable[[str], str | None]
DocumentNodesFunction = Callable[[str, Document], Collection[str] | None]
DF = TypeVar("DF", bound=DesiredFunction)
NF = TypeVar("NF", bound=NodeFunction)
CF = TypeVar("CF", bound=ConfigFunction)
PF = TypeVar("PF", bound=DocumentFunction)
DNF = TypeVar("DNF", bound=DocumentNodesFunction)


class App:
    """An application whose parts are decorated functions. A wrong definition raises DefinitionError at once.

    extends: an application (an instance or a class) whose commands and functions this one has too, unless it defines
    its own. Define all parts while its module is being imported: parts that are defined later may be ignored.
    secret_fields: see `HasSecretFields`.
    """

    node_changed: NodeFunction
    """Set only if there is a function for it: masterd reports nodes to applications that have this attribute."""
    config_changed: ConfigFunction
    """Set only if there is a function for it."""

    def __init__(
        self,
        name: str,
        *,
        version: str = "",
        extends: Application | type[Application] | None = None,
        secret_fields: Sequence[str] = (),
    ) -> None:
        self.name = _checked_name("application", name)
        self.version = version
        self._base = _base_application(name, extends)
        self.secret_fields = (*getattr(self._base, "secret_fields", ()), *_checked_secret_fields(name, secret_fields))
        self._own: dict[str, Command] = {}
        self._all: Mapping[str, Command] | None = None
        self._functions: dict[str, Callable[..., Any]] = {}
        for optional in ("node_changed", "config_changed"):
            if hasattr(self._base, optional):
                setattr(self, optional, getattr(self._base, optional))

    # --- commands ---

    @overload
    def command(self, function: F, /) -> F: ...

    @overload
    def command(self, name: str | None = None, /, *, quick: bool = False, help: str = "") -> Callable[[F], F]: ...

    def command(self, name: Any = None, /, *, quick: bool = False, help: str = "") -> Any:
        """Decorate the handler of a command: `@app.command`, or `@app.command("player.play", quick=True)`.

        name: default `<application>.<function>`, with `-` for each `_` of the function's name. quick: see `Command`.
        help: default the first line of the docstring. The handler's first parameter is annotated `Transaction`. The
        other parameters are the arguments: their annotations and defaults make a pydantic model, which refuses
        unknown arguments. The result is JSON. The function itself stays as it is.
        """
        if callable(name):
            return self._add_command(name, None, quick, help)
        return lambda function: self._add_command(function, name, quick, help)

    def _add_command(self, function: F, name: str | None, quick: bool, help: str) -> F:
        name = self._command_name(function, name)
        model = arguments_model(name, function)
        text = help or next(iter((model.__doc__ or "").splitlines()), "")
        self._own[name] = Command(model, _handler(function), text, quick)
        self._all = None
        return function

    def _command_name(self, function: Callable[..., Any], name: str | None) -> str:
        if name is None:
            name = f"{self.name}.{getattr(function, '__name__', '').strip('_').replace('_', '-')}"
        _checked_name("command", name)
        if name.startswith(RESERVED_PREFIXES) or name in RESERVED_NAMES:
            reserved = ", ".join([*(f"{prefix}*" for prefix in RESERVED_PREFIXES), *RESERVED_NAMES])
            raise DefinitionError(f"command {name}: the name is reserved for masterd ({reserved})")
        if name in self._own:
            raise DefinitionError(f"command {name} is defined twice")
        return name

    def commands(self) -> Mapping[str, Command]:
        """All commands by name, those of the extended application included."""
        if self._all is None:
            self._all = {**(self._base.commands() if self._base is not None else {}), **self._own}
        return self._all

    # --- the other parts ---

    @overload
    def desired(self, function: DF, /) -> DF: ...

    @overload
    def desired(self, config: Inventory, view: View, node: str) -> Spec | None: ...

    def desired(self, config: Any, view: Any = None, node: Any = None) -> Any:
        """Used as a decorator: define the function `(config, view, node) -> Spec | None`. It is pure.

        Called with these three arguments: return the function's result; see `Application.desired`. If no function is
        defined, return the result of the extended application, or None if no application is extended.
        """
        if view is None:
            return self._define("desired", config, ("config", "view", "node"))
        function = self._functions.get("desired")
        if function is None:
            return None if self._base is None else self._base.desired(config, view, node)
        return function(config, view, node)

    @overload
    def node_document(self, function: PF, /) -> PF: ...

    @overload
    def node_document(self, node: str) -> str | None: ...

    def node_document(self, node: Any) -> Any:
        """Used as a decorator: define the function `(node) -> path | None`; see `HasNodeDocuments`.

        Called with a node's name: return the function's result, the path of the document that is shown with the node.
        """
        if callable(node):
            return self._define("node_document", node, ("node",))
        function = self._functions.get("node_document") or getattr(self._base, "node_document", None)
        return None if function is None else function(node)

    @overload
    def document_nodes(self, function: DNF, /) -> DNF: ...

    @overload
    def document_nodes(self, path: str, document: Document) -> Collection[str] | None: ...

    def document_nodes(self, path: Any, document: Any = None) -> Any:
        """Used as a decorator: define the function `(path, document) -> nodes | None`; see `HasDocumentNodes`.

        Called with a path and a document: return the function's result, or, if that is None, the result of the extended
        application.
        """
        if callable(path):
            return self._define("document_nodes", path, ("path", "document"))
        for function in (self._functions.get("document_nodes"), getattr(self._base, "document_nodes", None)):
            if function is not None and (nodes := function(path, document)) is not None:
                return nodes
        return None

    def on_node_change(self, function: NF) -> NF:
        """Decorate the function `(tx, node, seen)` that reacts to changes of nodes; see `HearsNodes`."""
        self.node_changed = self._define("on_node_change", function, ("tx", "node", "seen"))
        return function

    def on_config_change(self, function: CF) -> CF:
        """Decorate the function `(tx, change)` that reacts to changes of the configuration; see `HearsConfig`."""
        self.config_changed = self._define("on_config_change", function, ("tx", "change"))
        return function

    def _define(self, part: str, function: F, parameters: tuple[str, ...]) -> F:
        if part in self._functions:
            raise DefinitionError(f"application {self.name}: {part} is defined twice")
        try:
            inspect.signature(function).bind(*parameters)
        except (TypeError, ValueError):
            wanted = ", ".join(parameters)
            raise DefinitionError(f"application {self.name}: {part} must be a function ({wanted})") from None
        if inspect.iscoroutinefunction(function):
            raise DefinitionError(f"application {self.name}: {part} must not be async, because it must not wait")
        self._functions[part] = function
        return function


def _handler(function: Callable[..., Json]) -> Callable[[Transaction, Any], Json]:
    return lambda transaction, arguments: function(transaction, **arguments.__dict__)


def _checked_name(kind: str, name: str) -> str:
    try:
        return check_name(kind, name)
    except (Invalid, TypeError) as error:
        raise DefinitionError(str(error)) from None


def _base_application(name: str, extends: Application | type[Application] | None) -> Application | None:
    base = extends() if isinstance(extends, type) else extends
    if base is not None and not isinstance(base, Application):
        raise DefinitionError(f"application {name}: extends={extends!r} is not an application")
    return base


def _checked_secret_fields(name: str, marks: Sequence[str]) -> tuple[str, ...]:
    if isinstance(marks, str):
        raise DefinitionError(f"application {name}: secret_fields must be a list of names, not a text")
    try:
        return tuple(check_secret_field(mark) for mark in marks)
    except Invalid as error:
        raise DefinitionError(f"application {name}: {error}") from None
