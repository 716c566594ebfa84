"""Fuzzers of all parsers that read from outside: `make fuzz`. CONTRIBUTING.md says how to add one."""
