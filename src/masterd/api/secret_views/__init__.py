"""Hides secrets in the answers of the API: see `hiding.py`."""
