"""The targets, by who sends what they parse."""

from tests.fuzz.target import Target
from tests.fuzz.targets import arguments, certificates, files, links, requests, sessions, values

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (requests, sessions, certificates, files, values, links, arguments)
    for target in module.TARGETS
}
