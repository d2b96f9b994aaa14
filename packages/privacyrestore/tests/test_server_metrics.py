import re

from hypothesis import given
from hypothesis import strategies as st

from privacyrestore.batch_engine import EngineStats
from privacyrestore.server_metrics import SECONDS, Histogram, Metrics

IDLE = EngineStats(0, 0, 3, 1, {"stop": 2, "cancelled": 1}, 30, 12, 123456789)
LINE = re.compile(r'privacyrestore_[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+')


@given(st.lists(st.floats(0, 1000)))
def test_a_histogram_counts_what_is_at_most_each_bound(values):
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.add(value)
    found = {dict(labels).get("le", name): n for name, labels, n in histogram.samples()}
    for bound in SECONDS:
        assert found[f"{bound:g}"] == sum(value <= bound for value in values)
    assert found["+Inf"] == found["_count"] == len(values)


def test_the_page_is_of_the_text_format():
    metrics = Metrics()
    metrics.answered("/health", 200, 0.1)
    metrics.answered("other", 404, 0.1)
    metrics.accepted(5, restored=True)
    metrics.first_piece(0.2)
    metrics.finished(7)
    lines = metrics.text(IDLE).splitlines()
    assert all(LINE.fullmatch(line) for line in lines if not line.startswith("#"))
    assert 'privacyrestore_http_requests_total{route="/health",status="200"} 1' in lines
    assert 'privacyrestore_rows_total{kind="restored"} 1' in lines
    assert 'privacyrestore_engine_ended_total{reason="cancelled"} 1' in lines
    assert "privacyrestore_new_tokens_sum 7.0" in lines
    assert "privacyrestore_engine_forwards_total 123456789" in lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
