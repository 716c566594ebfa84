"""Child processes: the only package that starts, ends and awaits other programs.

A child never outlives its parent by accident: process groups and death signals on Linux, job objects on Windows.
May import support and errors. Read `child_processes.py` first; `posix.py` and `win32.py` implement it for each system.
"""
