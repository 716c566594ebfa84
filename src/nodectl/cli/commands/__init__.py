"""The commands, one module each, with a Typer named `app`. `nodectl.cli.root` lists them with their help.

Commands import what they need when they run. Read `state.py` first, as the simplest one.
"""
