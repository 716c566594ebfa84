"""Output of commands: tables, JSON, YAML and messages, fitted to the terminal, with control characters escaped.

May import the client's types. Read `output.py` first.
"""
