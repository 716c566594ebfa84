"""What faults of TLS mean, as OpenSSL and gRPC word them."""

from __future__ import annotations

import pytest

from nodestore.support.tls_errors import explain


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1006)",
         "its certificate has ended, or the clock of this PC is ahead"),
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:2379: Tls handshake failed "
         "(TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1000007d:SSL routines:OPENSSL_internal:"
         "CERTIFICATE_VERIFY_FAILED: certificate has expired: OK",
         "its certificate has ended, or the clock of this PC is ahead"),
        ("certificate is not yet valid", "its certificate is not valid yet: the clock of this PC is behind"),
        ("unable to get local issuer certificate",
         "its certificate is of none of the authorities that this program trusts (--ca)"),
        ("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired (_ssl.c:2580)",
         "it refuses this program's certificate: it has ended, by the clock there"),
        ("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca",
         "it refuses this program's certificate: it is of none of the authorities known there"),
        ("sslv3 alert certificate revoked", "it refuses this program's certificate: it is revoked"),
        ("Connection refused", "Connection refused"),
    ],
)  # fmt: skip
def test_known_faults_are_explained_and_others_kept(fault: str, meaning: str) -> None:
    assert explain(fault) == meaning
