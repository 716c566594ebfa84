"""`nodectl pki`: issues, renews and revokes the certificates of a cluster. It needs no cluster."""

import typer

from nodectl.cli.commands.security.pki import certificates, requests, rotate

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Issue, renew and revoke the certificates of a cluster.",
)  # fmt: skip
app.command("init")(certificates.init)
app.command("request")(requests.request)
app.command("issue")(certificates.issue)
app.command("renew")(certificates.renew)
app.command("revoke")(certificates.revoke)
app.command("rotate")(rotate.rotate)
app.command("show")(certificates.show)
