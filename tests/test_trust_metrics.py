"""What is counted of the trust in logs comes and goes with them."""

from __future__ import annotations

import math

from certstream.metrics import Metrics

MMD = "certstream_log_mmd_seconds"


def test_the_merge_delay_is_unknown_until_a_log_is_followed_and_where_it_takes_no_more() -> None:
    metrics = Metrics()
    metrics.log("a")
    get = metrics.registry.get_sample_value
    assert math.isnan(get(MMD, {"log": "a"}) or 0)
    metrics.trust.mmd("a", 60)
    assert get(MMD, {"log": "a"}) == 60
    metrics.trust.mmd("a", None)
    assert math.isnan(get(MMD, {"log": "a"}) or 0)


def test_a_log_shows_that_nothing_of_it_is_altered_until_it_is_forgotten() -> None:
    metrics = Metrics()
    metrics.log("a")
    metrics.log("b")
    get = metrics.registry.get_sample_value
    assert get("certstream_altered_precertificates_total", {"log": "a"}) == 0
    metrics.forget_log("a")
    assert get("certstream_altered_precertificates_total", {"log": "a"}) is None
    assert get(MMD, {"log": "a"}) is None
    assert get("certstream_altered_precertificates_total", {"log": "b"}) == 0
