"""Inventory files: parses YAML with line numbers, checks it against the model, and compares two inventories.

May import nothing else of nodectl. Read `file.py` first.
"""
