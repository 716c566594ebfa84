"""The drivers that come with noded: `process`, `exec` and `file`.

Each is registered as an entry point of the group `nodectl.drivers`. May import drivers.contract and drivers.support.
Read `process.py` first.
"""
