"""Files that people write: inventories in YAML, and passwords."""

from __future__ import annotations

from nodectl.inventory.file import check_inventory
from nodectl.inventory.yaml_source import FileError, YamlSource
from nodestore.errors import Invalid
from nodestore.schema.models import Inventory
from nodestore.support.jsonio import dumps
from nodestore.support.password_file import parse_password
from tests.fuzz.target import Disagreement, Target, agree


def _inventory(data: bytes) -> None:
    """A file that is accepted is also accepted by the model, as masterd receives it."""
    file = check_inventory(YamlSource("wall.yaml", data.decode("utf-8", "replace")))
    agree("what masterd reads", Inventory.model_validate_json(dumps(file.data)), file.inventory)


def _password(data: bytes) -> None:
    password = parse_password(data)
    if not password or set(password) & set("\r\n\0"):
        raise Disagreement(f"a password that no program can send: {password!r}")


_YAML = ("- ", ": ", "\n  ", "&a ", "*a", "<<: ", "!!str ", "|\n", '"', "{", "}", "[", "]", "#", "? ", "---\n")
TARGETS = (
    Target(
        "inventories",
        _inventory,
        (FileError,),
        (*_YAML, *(f"{name}:" for name in Inventory.model_fields), "driver: process", "settings:", "position: [0, 0]"),
    ),
    Target("passwords", _password, (Invalid,)),
)
