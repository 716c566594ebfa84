"""Parses YAML files that people write, with the line number of every value, for error messages.

Scalars have the types of YAML 1.2's core schema: only `true` and `false` are booleans (`on`, `no` and `off` are text),
and dates and `12:30` are text. Keys are always text. With the types of YAML 1.1 such words would reach etcd as values
that the author did not mean. The tags of that schema (`!!str 5`) are obeyed, and any other tag is an error.

The merge key `<<` adds the fields of another mapping, usually of an alias. A field at the top whose name begins with
`x-` is dropped, so that it can hold anchors.
"""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from nodestore.errors import Invalid

FILE_BYTES_MAX = 1 << 20
VALUES_MAX = 100_000
DEPTH_MAX = 64
PROBLEMS_MAX = 20
STDIN = Path("-")

YamlPath = tuple[str | int, ...]
"""The path to a value: keys and list positions from the top."""

_CORE = "tag:yaml.org,2002:"
_SCALAR_TAGS = ("str", "int", "float", "bool", "null")
_MERGE = "<<"
_HIDDEN = "x-"

_NULL = {"", "~", "null", "Null", "NULL"}
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)")
_NOT_FINITE = {".inf", "-.inf", "+.inf", ".nan"}
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What ends a line for YAML, by which its line numbers count."""
_COMMENTED_COLOUR = re.compile(r":\s+(#[0-9a-fA-F]{3,8})\b")


class FileError(Invalid):
    """A file is not valid. The message has one line for each problem."""

    def __init__(self, problems: Collection[str]) -> None:
        shown = list(problems)[:PROBLEMS_MAX]
        if len(problems) > len(shown):
            shown.append(f"... and {len(problems) - len(shown)} more")
        super().__init__("\n".join(shown))
        self.problems = tuple(problems)


class _TaggedLoader(yaml.SafeLoader):
    """Composes nodes whose `tag` is the tag in the file; empty if the file gives none."""

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = self._tagged(super().compose_scalar_node, anchor)
        return node

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        node: yaml.SequenceNode = self._tagged(super().compose_sequence_node, anchor)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = self._tagged(super().compose_mapping_node, anchor)
        return node

    def _tagged(self, compose: Any, anchor: Any) -> Any:
        tag = self.peek_event().tag  # type: ignore[no-untyped-call]
        node = compose(anchor)
        node.tag = tag or ""
        return node


class Source:
    """A file with its parsed `value`, and the problems found so far. A subclass knows where each part of `value` is."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.problems: list[tuple[int, str]] = []
        self.value: Any = None

    def line(self, where: YamlPath) -> int:
        """The line of the value at `where`, or of its nearest known parent."""
        raise NotImplementedError

    def place(self, where: YamlPath) -> str:
        """The line of the value at `where`, in words."""
        return f"line {self.line(where)}"

    def add_problem(self, where: YamlPath, message: str, *, line: int | None = None) -> None:
        """Record a problem. `raise_problems` raises all of them. line: default that of the value at `where`."""
        at = ".".join(str(part) for part in where)
        problem = (self.line(where) if line is None else line, f"{at}: {message}" if at else message)
        if problem not in self.problems:  # a value with several aliases is built several times
            self.problems.append(problem)

    def add_unknown_problem(self, where: YamlPath, known: Iterable[str], what: str) -> None:
        """Record that the last part of `where` is unknown. The message suggests the closest of the `known` names."""
        names = list(known)
        near = difflib.get_close_matches(str(where[-1]), names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names)}"
        self.add_problem(where, f"{what} is not known; {hint}")

    def raise_problems(self) -> None:
        """Raise FileError with all recorded problems, sorted by line, if there are any."""
        if self.problems:
            raise FileError([self._shown(line, text) for line, text in sorted(self.problems)])

    def _shown(self, line: int, problem: str) -> str:
        return f"{self.name}:{line}: {problem}"


class YamlSource(Source):
    """A parsed file: its `value`, the line of each part of it, and the problems found so far."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self._lines: dict[YamlPath, int] = {(): 1}
        self._count = 0
        self.value = self._parse()

    @classmethod
    def read(cls, path: Path) -> YamlSource:
        """Read and parse the file at `path`, or stdin if it is `-`.

        Raises FileError if it cannot be read, is too large, or is not YAML.
        """
        try:
            raw = _read(path)
        except OSError as error:
            raise FileError([f"{path}: {error.strerror or error}"]) from None
        if len(raw) > FILE_BYTES_MAX:
            raise FileError([f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB"])
        try:
            return cls("(stdin)" if path == STDIN else str(path), raw.decode("utf-8-sig").replace("\r\n", "\n"))
        except UnicodeDecodeError as error:
            line = raw[: error.start].count(b"\n") + 1
            raise FileError([f"{path}:{line}: not UTF-8: save the file with that encoding"]) from None

    def line(self, where: YamlPath) -> int:
        """The line of the value at `where`, or of its nearest known parent."""
        while where not in self._lines:
            where = where[:-1]
        return self._lines[where]

    # --- parsing ----------------------------------------------------------------------------------------------------

    def _parse(self) -> Any:
        try:
            root = yaml.compose(self.text, Loader=_TaggedLoader)
        except yaml.MarkedYAMLError as error:
            raise FileError([f"{self.name}:{_mark_line(error)}: {_reason(error)}"]) from None
        except yaml.YAMLError as error:
            raise FileError([f"{self.name}: {error}"]) from None
        except RecursionError:
            raise FileError([f"{self.name}: nested too deeply"]) from None
        value = None if root is None else self._build(root, ())
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if not key.startswith(_HIDDEN)}
        return value

    def _build(self, node: yaml.Node, where: YamlPath) -> Any:
        self._count_value(node, len(where))
        self._lines.setdefault(where, _line(node))
        if isinstance(node, yaml.MappingNode):
            self._check_tag(node, where, "map")
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            self._check_tag(node, where, "seq")
            return [self._build(item, (*where, position)) for position, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, where)

    def _count_value(self, node: yaml.Node, depth: int) -> None:
        """Raise FileError beyond the limits: with aliases and merge keys a small file expands without limit."""
        self._count += 1
        if self._count > VALUES_MAX or depth > DEPTH_MAX:
            raise FileError([f"{self.name}:{_line(node)}: too many values or levels"])

    def _check_tag(self, node: yaml.Node, where: YamlPath, *allowed: str) -> str:
        """The tag of a node without its prefix; empty if it has none. Records a problem for any other tag."""
        tag = node.tag.removeprefix(_CORE)
        if node.tag and (tag == node.tag or tag not in allowed):
            shown = f"!!{tag}" if tag != node.tag else node.tag
            known = ", ".join(f"!!{name}" for name in allowed)
            self.add_problem(where, f"the tag {shown} is not known here; known: {known}", line=_line(node))
            return ""
        return tag

    def _mapping(self, node: yaml.MappingNode, where: YamlPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        given: dict[str, int] = {}  # merged fields are not in it: a field of the mapping itself overrides them
        for key_node, value_node, own in self._fields(node, where, len(where)):
            key = self._valid_text(key_node.value, where)
            inner, line = (*where, key), _line(key_node)
            if own and key in given:
                self.add_problem(inner, f"is given twice, first in line {given[key]}", line=line)
                continue
            if own:
                given[key] = line
            elif key in mapping:
                continue
            self._lines[inner] = line
            mapping[key] = self._build(value_node, inner)
        return mapping

    def _fields(
        self, node: yaml.MappingNode, where: YamlPath, depth: int
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, bool]]:
        """Key and value of each field, and whether it is the mapping's own: those of merge keys come last."""
        merged: dict[int, yaml.Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.add_problem(where, "a key must be text", line=_line(key_node))
                continue
            self._check_tag(key_node, (*where, key_node.value), "str")
            if key_node.value != _MERGE or key_node.style is not None or key_node.tag:
                yield key_node, value_node, True
            elif merged:
                first = next(iter(merged))
                self.add_problem((*where, _MERGE), f"is given twice, first in line {first}", line=_line(key_node))
            else:
                merged[_line(key_node)] = value_node
        for value_node in merged.values():
            several = isinstance(value_node, yaml.SequenceNode)
            for source in value_node.value if several else [value_node]:
                yield from self._merged_fields(source, where, depth + 1)

    def _merged_fields(
        self, node: yaml.Node, where: YamlPath, depth: int
    ) -> Iterator[tuple[yaml.ScalarNode, yaml.Node, bool]]:
        self._count_value(node, depth)
        if not isinstance(node, yaml.MappingNode):
            problem = 'expected an alias of fields, or a list of them; for a key named "<<" write it in quotes'
            self.add_problem((*where, _MERGE), problem, line=_line(node))
            return
        for key_node, value_node, _ in self._fields(node, where, depth):
            self._count_value(key_node, depth)
            yield key_node, value_node, False

    def _valid_text(self, text: str, where: YamlPath) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            self.add_problem(where, "holds half of a surrogate pair, which is not a character")
            return text.encode("utf-8", "replace").decode()
        return text

    def _scalar(self, node: yaml.ScalarNode, where: YamlPath) -> Any:
        text = self._valid_text(str(node.value), where)
        tag = self._check_tag(node, where, *_SCALAR_TAGS)
        if tag == "str" or (not tag and node.style is not None):  # style: quoted, or a block scalar
            return text
        value = self._plain(text, where)
        if tag and not _is_of(tag, value):
            self.add_problem(where, f"{text!r} is not a value for the tag !!{tag}", line=_line(node))
        return float(value) if tag == "float" and type(value) is int else value

    def _plain(self, text: str, where: YamlPath) -> Any:
        """The value of a scalar without quotes."""
        if text in _NULL:
            colour = _COMMENTED_COLOUR.search(_LINE_BREAK.split(self.text)[self.line(where) - 1])
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


def _is_of(tag: str, value: Any) -> bool:
    """Whether a scalar's value is one of the type that the tag names. A whole number is also a `float`."""
    types = {"int": (int,), "float": (float, int), "bool": (bool,), "null": (type(None),)}[tag]
    return isinstance(value, types) and (tag == "bool" or not isinstance(value, bool))


def _read(path: Path) -> bytes:
    if path == STDIN:
        return sys.stdin.buffer.read(FILE_BYTES_MAX + 1) if sys.stdin is not None else b""
    with path.open("rb") as file:
        return file.read(FILE_BYTES_MAX + 1)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mark_line(error: yaml.MarkedYAMLError) -> int:
    mark = error.problem_mark or error.context_mark
    return mark.line + 1 if mark else 1


def _reason(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or "is not YAML"
    if "\\t" in problem:
        return "a tab where YAML wants spaces: indent with spaces"
    return f"not YAML: {problem}" + (f" ({error.context})" if error.context else "")
