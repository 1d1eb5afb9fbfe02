"""When the certificate that is served expires, as the metrics show it."""

from __future__ import annotations

import math
import ssl
from pathlib import Path

import pytest

from certstream.metrics import Metrics
from certstream.serve.options import ServeOptions
from certstream.serve.tls import TlsCertificate, TlsFiles
from tests.serve.conftest import Serve
from tests.serve.tls_support import Pair, make_pair, replace

NAME = "certstream_tls_certificate_expiry_timestamp_seconds"


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")


def expiry_of(pair: Pair) -> float:
    return pair.certificate.not_valid_after_utc.timestamp()


async def test_the_metrics_show_it_while_tls_is_served(serve: Serve, metrics: Metrics, files: TlsFiles) -> None:
    pair = make_pair("served")
    pair.write(files)
    before = metrics.registry.get_sample_value(NAME)
    await serve(ServeOptions(tls=files))
    assert before is not None
    assert math.isnan(before)
    assert metrics.registry.get_sample_value(NAME) == expiry_of(pair)


def test_it_is_that_of_the_pair_in_use_and_not_of_one_that_cannot_be_used(files: TlsFiles) -> None:
    first, second = make_pair("first"), make_pair("second", days=30)
    assert expiry_of(first) != expiry_of(second)
    first.write(files)
    certificate = TlsCertificate(files)
    assert certificate.expires_s == expiry_of(first)
    replace(files.certificate, second.certificate_pem())
    certificate.check()
    certificate.check()
    assert certificate.expires_s == expiry_of(first), "its key is another one's"
    replace(files.key, second.key_pem())
    certificate.check()
    certificate.check()
    assert certificate.expires_s == expiry_of(second)


def test_a_certificate_whose_expiry_cannot_be_read_is_served_all_the_same(files: TlsFiles) -> None:
    first, odd = make_pair("first"), make_pair("odd")
    first.write(files)
    certificate = TlsCertificate(files)
    version_2 = odd.der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1)  # RFC 5280, 4.1.2.1
    replace(files.certificate, ssl.DER_cert_to_PEM_cert(version_2).encode())
    replace(files.key, odd.key_pem())
    certificate.check()
    certificate.check()
    assert math.isnan(certificate.expires_s)
    assert math.isnan(TlsCertificate(files).expires_s)
    first.write(files)
    certificate.check()
    certificate.check()
    assert certificate.expires_s == expiry_of(first)
