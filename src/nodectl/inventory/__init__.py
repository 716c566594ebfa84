"""The inventory file: YAML with positions, checked against the model, and compared with what is in force.

May import nothing else of nodectl. Read `file.py` first.
"""
