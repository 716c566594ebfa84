"""All exports of one masterd."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

from masterd.api.audit_export.event_log_sink import EventLogSink, windows_api
from masterd.api.audit_export.exporter import Exporter
from masterd.api.audit_export.file_sink import FileSink
from masterd.api.audit_export.journal_source import JournalSource
from masterd.api.audit_export.progress import ProgressFile
from masterd.api.audit_export.records import event_record
from masterd.api.audit_export.sinks import Sink
from masterd.api.audit_export.syslog_sink import local_sink, server_sink
from masterd.api.read_sources import ReadSources
from masterd.audit_sinks import SinkSpec
from nodestore.schema.api_types import AuditEntry


class AuditExport:
    """Exports to each of the sinks. directory: where their progress is kept. ca: for syslog over TLS, the file of the
    server's authority; None: the authorities of this PC's system."""

    def __init__(
        self, sources: ReadSources, sinks: Sequence[SinkSpec], directory: Path, ca: Path | None = None
    ) -> None:
        self._cluster, self._master = sources.keys.cluster, sources.own_id
        self._exporters = [
            Exporter(
                spec.text,
                make_sink(spec, ca),
                JournalSource(sources),
                ProgressFile(directory, self._cluster, spec.text),
            )
            for spec in sinks
        ]

    def add_event(self, entry: AuditEntry) -> None:
        """Export an event of this masterd's audit log."""
        record = event_record(self._cluster, self._master, entry)
        for exporter in self._exporters:
            exporter.add_event(record)

    @property
    def warning(self) -> str | None:
        """What `nodectl status` is to warn of; None if each sink takes everything."""
        problems = [exporter.problem for exporter in self._exporters]
        return "; ".join(problem for problem in problems if problem is not None) or None

    async def run(self) -> None:
        """Export until cancelled."""
        try:
            async with asyncio.TaskGroup() as eternal:
                eternal.create_task(asyncio.Event().wait())  # without sinks too, this must not end
                for exporter in self._exporters:
                    eternal.create_task(exporter.run())
        finally:
            await asyncio.gather(*(exporter.close() for exporter in self._exporters))


def make_sink(spec: SinkSpec, ca: Path | None = None) -> Sink:
    """The sink that an option names."""
    if spec.path is not None:
        return FileSink(spec.path)
    if spec.address is not None:
        tls = ssl.create_default_context(cafile=ca) if spec.kind == "syslog+tls" else None
        return server_sink(spec.address, udp=spec.kind == "syslog+udp", tls=tls)
    return local_sink() if spec.kind == "syslog" else EventLogSink(windows_api())
