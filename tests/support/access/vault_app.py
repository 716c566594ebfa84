"""The built-in application with secrets of its own: an argument, a document, and handlers that quote them."""

from __future__ import annotations

from masterd.application.scenes import BuiltinApp
from nodesdk import App, Secret, Transaction

app = App("vault", extends=BuiltinApp, secret_fields=("door.code",))


@app.command
def open(tx: Transaction, pin: Secret) -> dict[str, str]:
    """Keep a secret, and return it to the sender."""
    tx.put("vault/one", {"pin": pin, "door": {"code": pin}})
    return {"pin": pin}


@app.command
def fail(tx: Transaction, pin: Secret) -> None:
    """Fail with an error that quotes the secret."""
    raise ValueError(f"{pin} is wrong")
