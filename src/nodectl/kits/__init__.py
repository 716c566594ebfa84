"""Kits: one file that holds all a PC needs without internet. docs/kits.md has what is in it and where it comes from.

Read `build.py` first. `platforms` and `lock` are pure; `pieces` gets what a kit is made of; `archive` writes the file;
`contents` reads it back; `install` copies an unpacked kit to its place.
"""
