"""Child processes: the one place where any program of this project starts, ends and awaits another one.

A child never outlives its parent by accident: process groups and death signals on Linux, job objects on Windows.
May import support and errors. Read `child_processes.py` first; `posix.py` and `win32.py` do the work of each system.
"""
