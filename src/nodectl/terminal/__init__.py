"""What a terminal shows: tables, JSON and plain text, cut to its width and safe against control characters.

May import the client's types. Read `output.py` first.
"""
