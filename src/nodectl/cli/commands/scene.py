"""`nodectl scene`: saves, shows and applies scenes, which are named sets of node documents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli import completion
from nodectl.cli.arguments import WAIT_S, LocalOption, TimeoutOption, WaitOption, consistency
from nodectl.cli.sending import send
from nodectl.cli.session import with_client
from nodectl.terminal.output import Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.client import Client

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Save and apply scenes: named sets of node documents.",
)

_PREFIX = "scenes/"
SceneArgument = Annotated[
    str, typer.Argument(metavar="SCENE", help="Name of the scene.", autocompletion=completion.scenes)
]


@app.command("list")
def list_scenes(context: typer.Context, local: LocalOption = False, output: OutputOption = Format.table) -> None:
    """List the saved scenes."""

    async def work(client: Client) -> Any:
        return await client.documents(_PREFIX, consistency=consistency(local))

    found = with_client(context, work, mask_secrets=output is Format.table)
    scenes = [
        {"name": path.removeprefix(_PREFIX), "index": view["index"], **view["document"]}
        for path, view in sorted(found.items())
    ]

    def tables() -> list[Table]:
        table = Table(("SCENE", "NODES", "DESCRIPTION"))
        for scene in scenes:
            table.add(scene["name"], str(len(scene.get("nodes", {}))), str(scene.get("description", "")))
        return [table]

    Output(output).show(scenes, tables=tables, names=lambda: [scene["name"] for scene in scenes])


@app.command("show")
def show(
    context: typer.Context, scene: SceneArgument, local: LocalOption = False, output: OutputOption = Format.table
) -> None:
    """Show the documents of a scene.

    -o yaml prints the form that `nodectl scene save --file` reads.
    """
    from nodectl.terminal.format import inline

    async def work(client: Client) -> Any:
        return await client.document(_PREFIX + scene, consistency=consistency(local))

    document = with_client(context, work, mask_secrets=output is Format.table)["document"]

    def tables() -> list[Table]:
        table = Table(("NODE", "DOCUMENT"), title=document.get("description", ""))
        for node, values in document.get("nodes", {}).items():
            table.add(node, inline(values, 200))
        return [table]

    Output(output).show(document, tables=tables, names=lambda: list(document.get("nodes", {})))


@app.command("save")
def save(
    context: typer.Context,
    scene: SceneArgument,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the documents from this YAML file.")
    ] = None,
    description: Annotated[
        str | None, typer.Option("--description", "-d", metavar="TEXT", help="What the scene is for.")
    ] = None,
    output: OutputOption = Format.table,
) -> None:
    """Save a scene from a file or the nodes' current documents."""
    nodes, text = load_scene(file) if file is not None else (None, "")
    about = text if description is None else description
    send(
        context, output, lambda client: client.scene_save(scene, nodes, description=about), f"{scene} saved",
        name=scene,
    )  # fmt: skip


@app.command("apply")
def apply(
    context: typer.Context,
    scene: SceneArgument,
    group: Annotated[
        str,
        typer.Option(
            "--group", "-g", metavar="GROUP", help="Only on nodes of this group.", autocompletion=completion.groups
        ),
    ] = "all",
    wait: WaitOption = False,
    timeout: TimeoutOption = WAIT_S,
    output: OutputOption = Format.table,
) -> None:
    """Apply the documents of a scene to the nodes, in one command."""
    waited = (lambda done: list((done.result or {}).get("nodes", []))) if wait else None
    send(
        context, output, lambda client: client.scene_apply(scene, group=group), f"{scene} applied",
        name=scene, nodes=waited, timeout_s=timeout,
    )  # fmt: skip


@app.command("delete")
def delete(context: typer.Context, scene: SceneArgument, output: OutputOption = Format.table) -> None:
    """Delete a scene. The nodes keep their documents."""
    send(context, output, lambda client: client.scene_delete(scene), f"{scene} deleted", name=scene)


def load_scene(path: Path) -> tuple[dict[str, dict[str, Any]], str]:
    """Read documents and description from a scene file. Raises FileError, with line numbers, if it is not valid."""
    from nodectl.inventory.yaml_source import YamlSource

    source = YamlSource.read(path)
    top = source.value if isinstance(source.value, dict) else {}
    for name in top:
        if name not in {"description", "nodes"}:
            source.add_unknown_problem((name,), ("description", "nodes"), "this field")
    nodes, description = top.get("nodes"), top.get("description", "")
    if not isinstance(nodes, dict) or not nodes:
        source.add_problem(("nodes",), "expected a document for each node")
        nodes = {}
    for name, document in nodes.items():
        if not isinstance(document, dict):
            source.add_problem(("nodes", name), f"expected fields (key: value), got {document!r}")
    if not isinstance(description, str):
        source.add_problem(("description",), f"expected text, got {description!r}")
    source.raise_problems()
    return nodes, description
