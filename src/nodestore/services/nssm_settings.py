"""The settings of NSSM for a service definition. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from nodestore.errors import Invalid
from nodestore.services.manager import ServiceDefinition

Settings = Sequence[tuple[str, tuple[str, ...]]]
"""Names and values, in the order in which they are set. Without a value: the setting is reset."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,60}")
_UNSAFE = frozenset("\n\r\0")
_NO_WINDOW_NO_THREAD = "6"
"""Of the ways in which NSSM asks a program to end, only Ctrl-C is used; each other one would cost time."""
_ALWAYS_NEW = "2"
"""CREATE_ALWAYS: the file with a crash's last words begins anew at each start, because NSSM deletes no old ones."""


def check_service_name(name: str) -> str:
    """Return the name. Raises Invalid if it could be anything else, such as an option."""
    if _NAME.fullmatch(name) is None:
        raise Invalid(f"{name!r} is not a name of a service: small letters, digits and - only")
    return name


def settings_of(definition: ServiceDefinition) -> Settings:
    """The settings of the service. Raises Invalid if a text has line breaks, or a variable no name."""
    found = list(_settings(definition))
    if any(_UNSAFE & set(text) for _, values in found for text in values):
        raise Invalid(f"the definition of {definition.name} contains a line break")
    return found


def _settings(definition: ServiceDefinition) -> Iterator[tuple[str, tuple[str, ...]]]:
    program, *arguments = definition.argv
    stop_ms = f"{round(definition.stop_timeout_s * 1000)}"
    yield "Application", (program,)
    yield "AppParameters", (command_line(arguments),) if arguments else ()
    directory = definition.working_directory or next((item.path for item in definition.directories), None)
    yield "AppDirectory", () if directory is None else (str(directory),)
    yield "AppEnvironmentExtra", tuple(f"{name}={value}" for name, value in environment(definition))
    yield "DisplayName", (definition.name,)
    yield "Start", ("SERVICE_AUTO_START",)
    yield "AppExit", ("Default", "Restart")
    yield "AppRestartDelay", (f"{round(definition.restart_s * 1000)}",)
    yield "AppThrottle", ("0",)  # NSSM's own pauses grow to minutes, and a standby would be missing for so long
    yield "AppStopMethodSkip", (_NO_WINDOW_NO_THREAD,)
    yield "AppStopMethodConsole", (stop_ms,)
    yield "AppKillProcessTree", ("1",)
    yield "AppPriority", ("ABOVE_NORMAL_PRIORITY_CLASS" if definition.nice < 0 else "NORMAL_PRIORITY_CLASS",)
    yield "AppRotateFiles", ("0",)
    last_words = last_words_file(definition)
    for stream in ("AppStdout", "AppStderr"):
        yield stream, () if last_words is None else (str(last_words),)
        yield f"{stream}CreationDisposition", () if last_words is None else (_ALWAYS_NEW,)


def environment(definition: ServiceDefinition) -> Iterator[tuple[str, str]]:
    """The variables of the service. Its programs bound their log themselves, because NSSM does not."""
    if definition.log is not None:
        yield "NODECTL_LOG_FILE", str(definition.log)
    yield from definition.env.items()


def last_words_file(definition: ServiceDefinition) -> PurePath | None:
    """The file for what the program writes outside of its log: a wrong option, the traceback of a crash."""
    return None if definition.log is None else definition.log.with_suffix(".err")


def command_line(arguments: Sequence[str]) -> str:
    """The arguments as one text, which Windows programs divide into the same arguments again.

    A backslash is itself, except before a quotation mark: there it must be doubled.
    """
    return " ".join(map(_quoted, arguments))


def _quoted(argument: str) -> str:
    doubled = re.sub(r'(\\*)"', r'\1\1\\"', argument)
    if argument and not re.search(r"[ \t]", argument):
        return doubled
    return '"' + re.sub(r"(\\+)$", r"\1\1", doubled) + '"'


def script(definition: ServiceDefinition, nssm: str) -> list[str]:
    """The lines, for a console of Windows, that install the service by hand. nssm: the path of nssm.exe."""
    name, (program, *_) = definition.name, definition.argv
    lines: list[tuple[str, ...]] = [("install", name, program)]
    lines += [("set", name, setting, *values) for setting, values in settings_of(definition)[1:] if values]
    return [command_line([nssm, *line]) for line in [*lines, ("start", name)]]
