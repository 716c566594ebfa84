"""What is on this PC: its files, its identity, its certificates, and how each of its services is started.

May import nodestore. Read `layout.py` first.
"""
