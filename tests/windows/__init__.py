"""The Windows kit under Wine: `python -m tests.windows` runs it, with the unit tests that `listed.txt` names."""
