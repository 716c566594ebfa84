"""Commands for certificates and for who may do what. Each module holds a Typer named `app`."""
