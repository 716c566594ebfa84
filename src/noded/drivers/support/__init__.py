"""Helpers for drivers, built-in and third-party.

They run a command, watch one run of a program, check health, bound output and make blocking calls. May import
drivers.contract. Read `command.py` first.
"""
