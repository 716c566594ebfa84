"""The measurements, one module a subject. Each yields trials; none prints.

May import harness. Read `commands.py` first.
"""
