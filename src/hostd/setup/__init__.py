"""The commands of `nodectl host`: begin a cluster, join one, leave it, list its PCs. Read `steps.py` first.

Each command may be interrupted at any point and run again: every step first finds out whether it was done.
May import all other packages of hostd.
"""
