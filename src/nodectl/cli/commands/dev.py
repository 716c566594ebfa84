"""`nodectl dev`: runs a cluster on this PC for development, each part in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nodectl.cli.dev_session import open_cluster, with_lock
from nodectl.cli.session import options_of
from nodectl.terminal.output import Cell, Format, Output, OutputOption, Table

if TYPE_CHECKING:
    from nodectl.dev.cluster import DevCluster
    from nodectl.dev.record import Part

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None,
    help="Run a cluster on this PC for development.",
)  # fmt: skip

DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        "-d",
        metavar="DIR",
        help="Directory of the cluster (default: NODECTL_DEV_DIR, else the user's state directory).",
    ),
]
ProcessNameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A process that `nodectl dev status` lists.")]


@app.command("up")
def up(
    context: typer.Context,
    directory: DirectoryOption = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Inventory of a new cluster (default: a wall of nine nodes)."),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(min=1, max=7, metavar="N", help="Number of etcd members of a new cluster (default: 3)."),
    ] = None,
    unsafe_no_fsync: Annotated[
        bool,
        typer.Option("--unsafe-no-fsync", help="New cluster: etcd does not sync its writes to disk. For tests only."),
    ] = False,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure", help="New cluster: without TLS, which is on by default, with authorities of its own."
        ),
    ] = False,
    output: OutputOption = Format.table,
) -> None:
    """Start the cluster and wait until it works.

    Processes that run already are left alone. A cluster that was stopped before continues with its state.
    """
    from nodectl.dev.cluster import DevCluster

    place, out = _directory_of(directory), Output(output)
    cluster = DevCluster(
        place,
        inventory=config or options_of(context).config,  # the root parses --config as its own option, wherever it is
        members=members,
        tls=not insecure,
        unsafe_no_fsync=unsafe_no_fsync,
        report=out.note,
    )
    with_lock(cluster, cluster.up)
    out.took_effect()
    out.show(_as_dict(cluster), tables=lambda: [_table(cluster)], names=lambda: list(cluster.processes))
    out.note("")
    out.note(f"nodectl {_connection_options(cluster)} status        shows the cluster")
    out.note(f"nodectl dev down{_directory_option(directory, place)}        stops it and keeps its state")


@app.command("status")
def status(directory: DirectoryOption = None, output: OutputOption = Format.table) -> None:
    """Show the processes.

    -o json also shows pids, URLs, files, and the command lines to start and kill each one.
    """
    cluster = open_cluster(_directory_of(directory))
    out = Output(output)
    out.show(_as_dict(cluster), tables=lambda: [_table(cluster)], names=lambda: list(cluster.processes))


@app.command("down")
def down(directory: DirectoryOption = None) -> None:
    """Stop all processes.

    The state is kept for the next `nodectl dev up`. A process that does not stop in time is killed.
    """
    cluster, out = open_cluster(_directory_of(directory)), Output()
    with_lock(cluster, cluster.down)
    out.note(f"stopped; the state is kept in {cluster.directory}")


@app.command("start")
def start(name: ProcessNameArgument, directory: DirectoryOption = None) -> None:
    """Start one process, without waiting until it is ready."""
    cluster = open_cluster(_directory_of(directory))
    with_lock(cluster, lambda: cluster.start(name))
    Output().note(f"{name} started, pid {_pid(cluster.processes[name])}; log: {cluster.paths.log(name)}")


@app.command("stop")
def stop(name: ProcessNameArgument, directory: DirectoryOption = None) -> None:
    """Stop one process; kill it if it does not stop in time."""
    cluster = open_cluster(_directory_of(directory))
    with_lock(cluster, lambda: cluster.stop(name))
    Output().note(f"{name} stopped")


@app.command("kill")
def kill(name: ProcessNameArgument, directory: DirectoryOption = None) -> None:
    """Kill one process and its child processes."""
    cluster = open_cluster(_directory_of(directory))
    with_lock(cluster, lambda: cluster.kill(name))
    Output().note(f"{name} killed")


@app.command("suspend")
def suspend(name: ProcessNameArgument, directory: DirectoryOption = None) -> None:
    """Freeze one process until `nodectl dev resume`."""
    open_cluster(_directory_of(directory)).suspend(name)
    Output().note(f"{name} frozen; `nodectl dev resume {name}` wakes it")


@app.command("resume")
def resume(name: ProcessNameArgument, directory: DirectoryOption = None) -> None:
    """Wake a frozen process."""
    open_cluster(_directory_of(directory)).resume(name)
    Output().note(f"{name} resumed")


# --- shared ---------------------------------------------------------------------------------------------------------


def _directory_of(directory: Path | None) -> Path:
    from nodectl.dev.places import default_directory

    return (directory or default_directory()).absolute()


def _directory_option(directory: Path | None, place: Path) -> str:
    return f" --dir {place}" if directory is not None else ""


def _connection_options(cluster: DevCluster) -> str:
    return f"--config {cluster.paths.client_config}"


def _pid(part: Part) -> int | None:
    return part.process.pid if part.process is not None and part.running else None


def _state(cluster: DevCluster, name: str, part: Part) -> Cell:
    if not part.running:
        return Cell("stopped", "red")
    return Cell("frozen", "yellow") if cluster.is_suspended(name) else Cell("running", "green")


def _table(cluster: DevCluster) -> Table:
    table = Table(("NAME", "PROGRAM", "STATE", "PID", "ADDRESS"))
    for name, part in cluster.processes.items():
        shown = [url for use, url in cluster.addresses(name).items() if use != "peer"]
        table.add(name, part.program, _state(cluster, name, part), str(_pid(part) or ""), " ".join(shown))
    return table


def _as_dict(cluster: DevCluster) -> dict[str, Any]:
    processes = []
    for name, part in cluster.processes.items():
        data, pid = cluster.paths.data(name, part), _pid(part)
        processes.append(
            {
                "name": name,
                "program": part.program,
                "running": pid is not None,
                "state": _state(cluster, name, part).text,
                "pid": pid,
                "created": part.process.created if part.process is not None and pid is not None else None,
                "urls": cluster.addresses(name),
                "data": str(data) if data is not None else None,
                "log": str(cluster.paths.log(name)),
                "argv": part.process.argv if part.process is not None else None,
                "start": _command_line_for(cluster, "start", name),
                "kill": _command_line_for(cluster, "kill", name),
            }
        )
    return {
        "directory": str(cluster.directory),
        "cluster": cluster.cluster,
        "endpoints": list(cluster.endpoints),
        "masters": list(cluster.master_urls.values()),
        "config": str(cluster.paths.client_config),
        "tls": _tls_as_dict(cluster),
        "running": all(process["running"] for process in processes),
        "processes": processes,
    }


def _tls_as_dict(cluster: DevCluster) -> dict[str, str] | None:
    """The files for clients, by the names of nodectl's options; None without TLS."""
    files = cluster.operator_tls
    return None if files is None else {name: str(getattr(files, name)) for name in ("ca", "cert", "key", "crl")}


def _command_line_for(cluster: DevCluster, verb: str, name: str) -> list[str]:
    """The command line by which a script starts or kills the process."""
    return [sys.executable, "-m", "nodectl", "dev", verb, name, "--dir", str(cluster.directory)]
