"""Records what an admin changed: in the log of this masterd, and in its audit log."""

from __future__ import annotations

import logging

from aiohttp import web

from masterd.api.access.audit import AuditLog
from masterd.roles.request_principal import principal_of

log = logging.getLogger(__name__)


def record_change(audit: AuditLog, request: web.Request, event: str, detail: str = "") -> None:
    """Record that the sender of `request` changed something. event: what kind of change. detail: of what."""
    principal = principal_of(request)
    log.warning("%s: %s%s", principal, event, f": {detail}" if detail else "")
    audit.record_change(event, principal, request=f"{request.method} {request.path}", detail=detail)
