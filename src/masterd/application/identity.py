"""The identity of the application that this masterd runs, and the rule which application may lead. Pure.

A masterd that was started with another application, by a typing error for example, would give every node another spec.
So the journal records the name of the application that leads, and a masterd with another one does not take over, until
an operator adopts that application.
"""

from __future__ import annotations

from dataclasses import dataclass

from masterd.application.contract import Application
from nodestore.schema.models import ApplicationOrder
from nodestore.support.jsonio import digest


@dataclass(frozen=True, slots=True)
class ApplicationIdentity:
    """Name and version of an application. commands_hash: of the names and argument schemas of all its commands."""

    name: str
    version: str
    commands_hash: str

    @classmethod
    def of(cls, application: Application) -> ApplicationIdentity:
        version = getattr(application, "version", "")
        return cls(application.name, version if isinstance(version, str) else "", _commands_hash(application))


def _commands_hash(application: Application) -> str:
    """Empty if a schema cannot be generated: a model may use types of its own that have none."""
    try:
        schemas = {name: command.arguments.model_json_schema() for name, command in application.commands().items()}
        return digest(schemas)
    except Exception:  # noqa: BLE001 - the application's own code; the hash is only shown
        return ""


def application_in_force(recorded: str | None, order: ApplicationOrder | None) -> str | None:
    """The name of the only application that may take over; None if any may.

    recorded: the name in the journal. order: the operator's order. It counts only while it replaces the recorded name,
    so one that was executed or that another leader has overtaken has no effect.
    """
    return order.name if order is not None and order.replaces == recorded else recorded


def refusal_to_lead(own: str, recorded: str | None, order: ApplicationOrder | None) -> str | None:
    """Why a masterd with the application `own` may not lead; None if it may."""
    wanted = application_in_force(recorded, order)
    if wanted in (None, own):
        return None
    return (
        f"it runs application {own!r}, but the cluster's is {wanted!r}: "
        f"start it with application {wanted!r} (--app), or run `nodectl app adopt {own}`"
    )
