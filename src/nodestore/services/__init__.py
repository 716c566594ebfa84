"""Services of a PC: what one is, and the managers that install, start, stop and remove it.

May import processes, support and errors. Read `manager.py` first.
"""
