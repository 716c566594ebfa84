"""Child processes: the only package that starts, ends and awaits other programs.

A child can be made to die with its parent: by a death signal on Linux, by a job object on Windows.
Its whole tree can be killed: the session on POSIX and the job object on Windows identify the tree.
May import support and errors. Read `child_processes.py` first; `posix.py` and `win32.py` implement it for each system.
"""
