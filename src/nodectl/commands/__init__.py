"""One module a noun, each with a Typer named `app`. Listed, with their help, in nodectl.cli."""
