"""Renders a document as the content of a file: as JSON, as YAML, or by a template with `${key}`. Pure.

In a template `${scene}` stands for the value of that key of the document, `${screen.width}` for a nested value, and
`$$` for a dollar sign. Text is inserted unchanged, any other value as JSON. A `$` before any other character is left
unchanged, so that most scripts are valid templates.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import yaml

from nodestore.support.jsonio import Document, dumps

RenderFormat = Literal["json", "yaml", "text"]

_SPECIAL = re.compile(r"\$(?:(\$)|\{([^{}]*)(\}?))")
_SHOWN_CHARS_MAX = 60


class CannotRender(ValueError):
    """The document cannot be rendered. The message is one sentence."""


def render(document: Document, form: RenderFormat, template: str, bytes_max: int) -> bytes:
    """Return the file's content in UTF-8. Raises CannotRender, also if it is longer than `bytes_max`."""
    try:
        content = _text(document, form, template, bytes_max).encode()
    except UnicodeEncodeError:
        raise CannotRender("the document has characters that UTF-8 cannot encode") from None
    except RecursionError:
        raise CannotRender("the document is nested too deeply") from None
    if len(content) > bytes_max:
        raise _too_long(bytes_max)
    return content


def _text(document: Document, form: RenderFormat, template: str, bytes_max: int) -> str:
    if form == "json":
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if form == "yaml":
        return str(yaml.dump(document, Dumper=_Dumper, allow_unicode=True, sort_keys=False))
    return fill_template(template, document, bytes_max)


class _Dumper(yaml.SafeDumper):
    """Quotes text that some YAML readers would take for another type."""


def _quoted_if_need_be(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quote text that PyYAML leaves unquoted and another reader would misread.

    For example, `1e5` is a number in YAML 1.2, and some Unicode characters end a line.
    """
    special = text[:1] in _NUMBERS_BEGIN or not _LINE_ENDS.isdisjoint(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if special else None)


_NUMBERS_BEGIN = tuple("+-.0123456789")
_LINE_ENDS = frozenset("\x85\u2028\u2029\ufeff")
_Dumper.add_representer(str, _quoted_if_need_be)


def fill_template(template: str, document: Document, chars_max: int) -> str:
    """Return `template` with the values inserted. Raises CannotRender for the first key without a value."""
    parts: list[str] = []
    length, at = 0, 0
    for place in _SPECIAL.finditer(template):
        escaped, name, closed = place.groups()
        if escaped is None and not closed:
            raise CannotRender(f"the template has a ${{ without }}: {_abbreviated(template[place.start() :])}")
        parts += [template[at : place.start()], "$" if escaped else _value(document, name)]
        at = place.end()
        length += len(parts[-2]) + len(parts[-1])
        if length > chars_max:  # a small template can insert a large value many times
            raise _too_long(chars_max)
    return "".join([*parts, template[at:]])


def _value(document: Document, name: str) -> str:
    value: Any = document
    for key in name.split("."):
        if not isinstance(value, dict) or key not in value:
            raise CannotRender(f"the template needs the key {_abbreviated(name)}, which the document does not have")
        value = value[key]
    return value if isinstance(value, str) else dumps(value).decode()


def _abbreviated(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_CHARS_MAX else text[:_SHOWN_CHARS_MAX] + "...")


def _too_long(bytes_max: int) -> CannotRender:
    return CannotRender(f"the file would be longer than {bytes_max} bytes")
