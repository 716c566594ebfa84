"""The measurements, one module for each subject. They return figures and print nothing.

May import harness. Read `commands.py` first.
"""
