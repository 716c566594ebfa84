"""What the answers of the API show of secrets.

Who may change the configuration sees them, because such a principal can run any program on every node. For all others,
and in a status, secrets are `***`. Which fields are secret, `SecretFields` decides by their names and by the marks of
the configuration in force and of the application.

If the application does not list its commands, the marks of their arguments are not known. Until it does, everything
that a command or a document holds is masked, and the application is asked again.

Not masked: the result of a command in the answer to its own sender, and the log of a node's program.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast

from aiohttp import web

from masterd.application.contract import Application
from masterd.application.secret_fields import declared_fields, marked_fields
from masterd.roles.peers import SECRETS_HEADER, SECRETS_MASKED
from masterd.roles.request_principal import principal_of
from nodestore.errors import Invalid
from nodestore.schema import api_types
from nodestore.schema.api_types import CommandView, NodeView
from nodestore.schema.models import Desired, Inventory
from nodestore.support.logs import RateLimitedLog
from nodestore.support.secrets import MASK, SecretFields, without_secrets
from nodestore.support.time_slices import TimeSlice

log = logging.getLogger(__name__)

Hide = Callable[["NodeSecrets", Any], Awaitable[Any]]
"""Returns an answer without its secrets."""
_ASK_AGAIN_S = 5.0
"""After this long an application that did not list its commands is asked again."""
_TEXTS_OF_STATUS = ("reason", "actual", "error", "warning")


class SecretMarks:
    """Knows the marks of one application, once it has listed its commands. A failure is not kept."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._marks: tuple[str, ...] | None = None
        self._lock = asyncio.Lock()
        self._ask_again_at = 0.0
        self._limited_log = RateLimitedLog(log, 60.0)

    @property
    def are_known(self) -> bool:
        """Whether the marks of all arguments are known. False until `fields` has succeeded in reading them."""
        return self._marks is not None

    async def fields(self, inventory: Inventory) -> SecretFields:
        """The fields that are known to be secret while `inventory` is in force; see `are_known`."""
        if self._marks is None:
            async with self._lock:  # one request asks, the others wait for its answer
                await self._ask()
        marks = declared_fields(self._application) if self._marks is None else self._marks
        return SecretFields(marks).with_marks(inventory.secret_fields)

    async def _ask(self) -> None:
        """Ask the application for its marks, unless it has failed to name them a moment ago."""
        if self._marks is not None or time.monotonic() < self._ask_again_at:
            return
        try:  # in a thread: on a slow PC it takes longer than standbys wait for a heartbeat
            self._marks = await asyncio.to_thread(marked_fields, self._application)
        except Exception as error:  # noqa: BLE001 - an application may raise anything
            self._ask_again_at = time.monotonic() + _ASK_AGAIN_S
            self._limited_log.log(
                logging.ERROR,
                f"the application does not list its commands ({error!r}), so their secret arguments are not known: "
                "all that commands and documents hold is hidden from those who may not see secrets",
            )


class NodeSecrets:
    """Hides the secrets of nodes, commands and configurations.

    orders: `desired/<node>` by node. If they are not current, all texts about a node whose spec has changed since are
    hidden, because they may hold a secret that is not known. marks_known: whether `fields` has the marks of all
    arguments. If not, all that a command or a document holds may be secret.
    """

    def __init__(
        self,
        fields: SecretFields,
        orders: Mapping[str, Desired],
        *,
        marks_known: bool = True,
        are_orders_current: bool = True,
    ) -> None:
        self.fields, self._orders = fields, orders
        self._marks_known, self._are_orders_current = marks_known, are_orders_current

    def content(self, value: Any) -> Any:
        """A document, or the arguments or result of a command, without secrets."""
        if self._marks_known:
            return self.fields.masked(value)
        if isinstance(value, dict):
            return {name: None if item is None else MASK for name, item in value.items()}
        return None if value is None else MASK

    def node(self, view: NodeView) -> NodeView:
        """The view without secrets in its documents, nor in the texts that its noded or the leader wrote."""
        order = self._orders.get(view["name"])
        specs = () if order is None else (order.spec.settings, order.spec.document)
        secrets = self.fields.texts(view["document"], *specs)
        hide = partial(without_secrets, secrets=secrets) if self._is_known(view, order) else _hidden
        shown: dict[str, Any] = {**view, "document": self.content(view["document"])}
        if shown["status"] is not None:
            status = shown["status"]
            texts = {name: self.fields.masked(status[name]) for name in _TEXTS_OF_STATUS if name in status}
            shown["status"] = {**status, **hide(texts)}
        if shown["spec"] is not None:
            shown["spec"] = self.fields.masked(shown["spec"])
        shown["problem"] = hide({"": shown["problem"]})[""]
        return cast(NodeView, shown)

    def _is_known(self, view: NodeView, order: Desired | None) -> bool:
        """Whether `order` is what the node must be at present."""
        if self._are_orders_current:
            return True
        mark = view["desired"]
        return (order and order.generation) == (mark and mark["generation"])

    def command(self, view: CommandView) -> CommandView:
        """The command without secrets in its arguments, its result and what it wrote."""
        shown: dict[str, Any] = dict(view)
        for name in ("args", "result"):
            if name in shown:
                shown[name] = self.content(shown[name])
        if "writes" in shown:  # by path: paths are not names of fields
            shown["writes"] = {path: self.content(document) for path, document in shown["writes"].items()}
        if "actions" in shown:  # by node
            shown["actions"] = {node: self._action(action) for node, action in shown["actions"].items()}
        if shown.get("config") is not None:
            shown["config"] = self.configuration(shown["config"])
        return cast(CommandView, shown)

    def _action(self, action: Any) -> Any:
        shown = self.fields.masked(action)
        if isinstance(shown, dict) and "args" in shown:
            shown["args"] = self.content(action["args"])
        return shown

    def configuration(self, record: Any) -> Any:
        """One version of the configuration. Its marks count, too. If it holds a secret, it has no source: a text in
        which a secret is not found for certain, such as one in a comment."""
        inventory = record.get("inventory") if isinstance(record, dict) else None
        if not isinstance(inventory, dict):
            return record
        own = inventory.get("secret_fields")
        fields = self.fields.with_marks(mark for mark in _list(own) if isinstance(mark, str) and mark)
        found: list[object] = []
        shown = {key: _masked_section(key, item, fields, found) for key, item in inventory.items()}
        return {**record, "inventory": shown, **({"source": ""} if found and "source" in record else {})}


def _list(value: object) -> Iterable[Any]:
    return value if isinstance(value, list | tuple) else ()


def _masked_section(key: str, value: Any, fields: SecretFields, found: list[object]) -> Any:
    if key in ("masters", "secret_fields"):
        return value
    if key in ("nodes", "groups") and isinstance(value, dict):  # their names are not those of fields
        return {name: fields.masked(item, found.append) for name, item in value.items()}
    return fields.masked({key: value}, found.append)[key]


def _hidden(texts: dict[str, Any]) -> dict[str, Any]:
    return {name: MASK if text else text for name, text in texts.items()}


async def each_shown(items: Iterable[Any], show: Callable[[Any], Any]) -> list[Any]:
    """Each item as `show` shows it, in time slices."""
    time_slice, shown = TimeSlice(), []
    for item in items:
        shown.append(show(item))
        await time_slice.yield_if_used_up()
    return shown


async def _documents_shown(documents: Mapping[str, Any], show: Callable[[Any], Any]) -> dict[str, Any]:
    return dict(zip(documents, await each_shown(documents.values(), show), strict=True))


async def hide_nodes(secrets: NodeSecrets, answer: api_types.Nodes) -> Any:
    return {**answer, "nodes": await each_shown(answer["nodes"], secrets.node)}


async def hide_node(secrets: NodeSecrets, answer: NodeView) -> Any:
    return secrets.node(answer)


async def hide_documents(secrets: NodeSecrets, answer: api_types.Documents) -> Any:
    def hide(item: Any) -> Any:
        return {**item, "document": secrets.content(item["document"])}

    return {**answer, "documents": await _documents_shown(answer["documents"], hide)}


async def hide_document(secrets: NodeSecrets, answer: api_types.Document) -> Any:
    return {**answer, "document": secrets.content(answer["document"])}


async def hide_snapshot(secrets: NodeSecrets, answer: api_types.SnapshotContent) -> Any:
    return {**answer, "documents": await _documents_shown(answer["documents"], secrets.content)}


async def hide_history(secrets: NodeSecrets, answer: api_types.History) -> Any:
    return {**answer, "entries": await each_shown(answer["entries"], secrets.command)}


async def hide_config(secrets: NodeSecrets, answer: api_types.Config) -> Any:
    return {
        **answer,
        "current": secrets.configuration(answer["current"]),
        "in_force": secrets.configuration(answer["in_force"]),
    }


async def hide_config_history(secrets: NodeSecrets, answer: api_types.ConfigHistory) -> Any:
    return {**answer, "versions": await each_shown(answer["versions"], secrets.configuration)}


def shows_secrets(request: web.Request) -> bool:
    """Whether the answer to this request may show secrets: its sender may see them, and does not decline."""
    return principal_of(request).sees_secrets and request.headers.get(SECRETS_HEADER) != SECRETS_MASKED


def check_no_mask(command: str, args: Any, fields: SecretFields) -> None:
    """Raises Invalid if a secret argument is `***`: its sender has read it masked, and would write that back."""
    found: list[object] = []
    fields.masked(args, found.append)
    if MASK in found:
        raise Invalid(f"command {command}: {MASK} stands for a secret that was not shown: leave that argument out")
