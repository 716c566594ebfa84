"""The joining PC's side: finds out whether the signer is the right one, and sends its request.

The first connection verifies nothing, and carries nothing but certificates of authorities. One of them must have the
hash that the token names. All else is sent over a second connection, which is verified by this one certificate: what
else the first connection brought may come from another program in the network.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import ssl
import time
from typing import TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from hostd.signing.messages import (
    AuthorityAnswer,
    CertificatesAnswer,
    CertificatesRequest,
    JoinAnswer,
    JoinRequest,
    LeaveAnswer,
    Problem,
)
from nodestore.errors import Denied, NodectlError, Unavailable, from_code

B = TypeVar("B", bound=BaseModel)

CLOCK_OFF_MAX_S = 3_600.0
_CONNECT_S, _ANSWER_S = 5.0, 90.0
_ANSWER_BYTES_MAX = 1 << 20
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


class WrongAuthority(Denied):
    """The signer has another authority than the token names."""


class WrongClock(NodectlError):
    """The clock of this PC and that of the signer differ too much."""


def authority_hash(pem: str) -> str:
    """SHA-256 of the first certificate in a text. Empty if there is none."""
    return next((_hash(der) for der in _certificates_in(pem)), "")


def authority_with_hash(pem: str, wanted_hash: str) -> str:
    """The one certificate of a text whose SHA-256 is `wanted_hash`, in PEM format. Empty if there is none."""
    found = (ssl.DER_cert_to_PEM_cert(der) for der in _certificates_in(pem) if _hash(der) == wanted_hash)
    return next(found, "")


def _certificates_in(pem: str) -> list[bytes]:
    """Each certificate of a text in DER format. Empty if one of them is malformed."""
    try:
        return [base64.b64decode("".join(found[1].split()), validate=True) for found in _PEM.finditer(pem)]
    except (binascii.Error, ValueError):
        return []


def _hash(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()


class SignerClient:
    """Requests to the signer at `address`, host:port."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def fetch_authority(self, wanted_hash: str) -> AuthorityAnswer:
        """The authority of the cluster: the certificate with this hash alone. WrongAuthority if there is none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is believed before the comparison
        answer = await self._request("GET", "/v1/authority", context, None, AuthorityAnswer)
        authority = authority_with_hash(answer.authority, wanted_hash)
        if not authority:
            raise WrongAuthority(
                f"the signer at {self._address} is not the one that the token names: its authority has another hash. "
                "Check the address and the token. If both are right, another program answers in place of the signer"
            )
        return answer.model_copy(update={"authority": authority})

    async def join(self, authority: str, request: JoinRequest) -> JoinAnswer:
        """Send the request. Raises the error with which the signer refused it."""
        context = ssl.create_default_context(cadata=authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return await self._request("POST", "/v1/join", context, request, JoinAnswer)

    async def certificates(self, tls: ssl.SSLContext, requests: dict[str, str]) -> dict[str, dict[str, str]]:
        """The certificates of this PC. tls: with the certificate of its hostd."""
        body = CertificatesRequest(requests=requests)
        return (await self._request("POST", "/v1/certificates", tls, body, CertificatesAnswer)).certificates

    async def leave(self, tls: ssl.SSLContext) -> bool:
        """Ask to leave the cluster; return whether it has forgotten this PC. tls: with the certificate of its hostd."""
        return (await self._request("POST", "/v1/leave", tls, None, LeaveAnswer)).left

    async def _request(
        self, method: str, path: str, context: ssl.SSLContext, body: BaseModel | None, answer: type[B]
    ) -> B:
        timeout = aiohttp.ClientTimeout(total=_ANSWER_S, sock_connect=_CONNECT_S)
        connector = aiohttp.TCPConnector(ssl=context)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(
                    method, f"https://{self._address}{path}", allow_redirects=False,
                    data=None if body is None else body.model_dump_json().encode(),
                    headers={"Content-Type": "application/json"},
                ) as response,
            ):  # fmt: skip
                return _parsed(response.status, await response.content.read(_ANSWER_BYTES_MAX), answer)
        except aiohttp.ClientConnectorCertificateError as error:
            raise Unavailable(
                f"the certificate of the signer at {self._address} is not accepted: {error.certificate_error}"
            ) from None
        except TimeoutError:
            raise Unavailable(f"{self._address} does not answer. {_closed(self._address)}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self._address} cannot be reached: {_plain(error)}. {_closed(self._address)}") from None


def check_clock(signer_time: float, now: float | None = None) -> None:
    """Raise WrongClock if the clocks differ by more than an hour."""
    off_s = (time.time() if now is None else now) - signer_time
    if abs(off_s) > CLOCK_OFF_MAX_S:
        raise WrongClock(
            f"the clock of this PC is {_span(abs(off_s))} {'ahead of' if off_s > 0 else 'behind'} that of the signer: "
            "set it (Linux: `timedatectl set-time`, Windows: `Set-Date`), then repeat this command. If the signer's is "
            "the wrong one, set that one"
        )


def _span(span_s: float) -> str:
    hours = span_s / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def _parsed(status: int, raw: bytes, answer: type[B]) -> B:
    try:
        if status == 200:
            return answer.model_validate_json(raw)
        problem = Problem.model_validate_json(raw)
    except ValidationError:
        raise NodectlError(f"the signer answered with status {status}, which is not understood") from None
    raise from_code(problem.code, problem.detail)


def _closed(address: str) -> str:
    port = address.rpartition(":")[2]
    return (
        "Is it the PC on which `nodectl host init` ran? Is hostd running there? Is TCP port "
        f"{port} open in its firewall?"
    )


def _plain(error: Exception) -> str:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    number = getattr(cause, "errno", None)  # asyncio's own text repeats the address
    return os.strerror(number) if number and number > 0 else str(cause) or type(cause).__name__
