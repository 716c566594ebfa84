"""Parses YAML files that people write, with the line number of every value, for error messages.

Scalars have the types of YAML 1.2's core schema: only `true` and `false` are booleans (`on`, `no` and `off` are text),
and dates and `12:30` are text. Keys are always text. With the types of YAML 1.1 such words would reach etcd as values
that the author did not mean.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import yaml

from nodestore.errors import Invalid

FILE_BYTES_MAX = 1 << 20
VALUES_MAX = 100_000
DEPTH_MAX = 64
PROBLEMS_MAX = 20

YamlPath = tuple[str | int, ...]
"""The path to a value: keys and list positions from the top."""

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_NOT_FINITE = {".inf", "-.inf", "+.inf", ".nan"}
_COMMENTED_COLOUR = re.compile(r":\s+(#[0-9a-fA-F]{3,8})\b")


class FileError(Invalid):
    """A file is not valid. The message has one line for each problem."""

    def __init__(self, problems: Collection[str]) -> None:
        shown = list(problems)[:PROBLEMS_MAX]
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more")
        super().__init__("\n".join(shown))
        self.problems = tuple(problems)


class YamlSource:
    """A parsed file: its `value`, the line of each part of it, and the problems found so far."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.problems: list[tuple[int, str]] = []
        self._lines: dict[YamlPath, int] = {(): 1}
        self._count = 0
        self.value: Any = self._parse()

    @classmethod
    def read(cls, path: Path) -> YamlSource:
        """Read and parse the file at `path`. Raises FileError if it cannot be read, is too large, or is not YAML."""
        try:
            with path.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise FileError([f"{path}: {error.strerror or error}"]) from None
        if len(raw) > FILE_BYTES_MAX:
            raise FileError([f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB"])
        try:
            return cls(str(path), raw.decode("utf-8-sig").replace("\r\n", "\n"))
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise FileError([f"{path}:{line}: not UTF-8: save the file with that encoding"]) from None

    def line(self, where: YamlPath) -> int:
        """The line of the value at `where`, or of its nearest known parent."""
        while where not in self._lines:
            where = where[:-1]
        return self._lines[where]

    def add_problem(self, where: YamlPath, message: str) -> None:
        """Record a problem. `raise_problems` raises all of them."""
        at = ".".join(str(part) for part in where)
        self.problems.append((self.line(where), f"{at}: {message}" if at else message))

    def add_unknown_problem(self, where: YamlPath, known: Iterable[str], what: str) -> None:
        """Record that the last part of `where` is unknown. The message suggests the closest of the `known` names."""
        names = list(known)
        near = difflib.get_close_matches(str(where[-1]), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
        self.add_problem(where, f"{what} is not known; {hint}")

    def raise_problems(self) -> None:
        """Raise FileError with all recorded problems, sorted by line, if there are any."""
        if self.problems:
            raise FileError([f"{self.name}:{line}: {text}" for line, text in sorted(self.problems)])

    # --- parsing ----------------------------------------------------------------------------------------------------

    def _parse(self) -> Any:
        try:
            root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            raise FileError([f"{self.name}:{_mark_line(error)}: {_reason(error)}"]) from None
        except yaml.YAMLError as error:
            raise FileError([f"{self.name}: {error}"]) from None
        except RecursionError:
            raise FileError([f"{self.name}: nested too deeply"]) from None
        return None if root is None else self._build(root, ())

    def _build(self, node: yaml.Node, where: YamlPath) -> Any:
        self._count += 1
        if self._count > VALUES_MAX or len(where) > DEPTH_MAX:  # aliases let a small file expand without limit
            raise FileError([f"{self.name}:{node.start_mark.line + 1}: too many values or levels"])
        self._lines.setdefault(where, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self._build(item, (*where, position)) for position, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, where)

    def _mapping(self, node: yaml.MappingNode, where: YamlPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.add_problem(where, "a key must be text")
                continue
            key = self._valid_text(key_node.value, where)
            inner = (*where, key)
            if key in mapping:
                first = self.line(inner)
                self._lines[inner] = key_node.start_mark.line + 1
                self.add_problem(inner, f"is given twice, first in line {first}")
                continue
            self._lines[inner] = key_node.start_mark.line + 1
            mapping[key] = self._build(value_node, inner)
        return mapping

    def _valid_text(self, text: str, where: YamlPath) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            self.add_problem(where, "holds half of a surrogate pair, which is not a character")
            return text.encode("utf-8", "replace").decode()
        return text

    def _scalar(self, node: yaml.ScalarNode, where: YamlPath) -> Any:
        text = self._valid_text(str(node.value), where)
        if node.tag.startswith("!"):
            self.add_problem(where, f"the tag {node.tag} is not known")
        if node.style is not None:  # quoted, or a block scalar
            return text
        if text in _NULL:
            colour = _COMMENTED_COLOUR.search(self.text.split("\n")[self.line(where) - 1])
            if text == "" and colour:
                self.add_problem(where, f'is empty, because # begins a comment: write "{colour.group(1)}" in quotes')
            return None
        if text in _BOOL:
            return _BOOL[text]
        if _INT.fullmatch(text):
            return int(text) if len(text) < 300 else text
        if _HEX.fullmatch(text):
            return int(text, 16)
        if _FLOAT.fullmatch(text) or text.lower() in _NOT_FINITE:
            number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
            if not math.isfinite(number):
                self.add_problem(where, "must be a finite number")
            return number
        return text


def _mark_line(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "is not YAML"
    if "\\t" in problem:
        return "a tab where YAML wants spaces: indent with spaces"
    return f"not YAML: {problem}" + (f" ({error.context})" if error.context else "")
