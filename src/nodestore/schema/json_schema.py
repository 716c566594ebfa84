"""Annotations that shape the JSON Schema of a type.

They implement pydantic's protocol for annotations without importing pydantic, so that the CLI, which needs only the
types, starts quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

Schema = dict[str, Any]

T = TypeVar("T")


class Keywords:
    """Adds keywords to the schema of the annotated type: `Annotated[int, Keywords(minimum=0)]`."""

    def __init__(self, **keywords: Any) -> None:
        self._keywords = keywords

    def __get_pydantic_json_schema__(self, core: Any, handler: Callable[[Any], Schema]) -> Schema:
        return {**handler(core), **self._keywords}


class StoredModel:
    """Gives the annotated type the JSON Schema of `schema.models.<name>`: a model, or the type of a model's field.

    The API passes the JSON of stored values on unchanged, so their shape is defined only by their models.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from nodestore.schema import models

        return handler(getattr(models, self.name))


def configured(*, extra: Literal["allow", "forbid", "ignore"] | None = None, **keywords: Any) -> Callable[[T], T]:
    """Decorator for a TypedDict: sets whether it permits unknown fields (`extra`), and keywords of its schema."""
    config: dict[str, Any] = {} if extra is None else {"extra": extra}
    if keywords:
        config["json_schema_extra"] = keywords

    def configure(kind: T) -> T:
        kind.__pydantic_config__ = config  # type: ignore[attr-defined]
        return kind

    return configure
