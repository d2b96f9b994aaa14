from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aefocl.clad_repairs import DATES, TIMES, moment, repair


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(
        lambda t: t.replace(microsecond=0)
    )
)
def test_both_ways_to_write_an_instant_are_read(instant):
    assert moment(f"{instant:%Y%m%d}", f"{instant:%H%M%S}") == instant
    assert moment(f"{instant:%Y-%m-%d}", f"{instant:%H:%M:%S}") == instant


def test_a_missing_first_zero_is_none_at_all():
    assert moment("20191111", "93015") == datetime(2019, 11, 11, 9, 30, 15)


@given(st.text(max_size=10), st.text(max_size=8))
def test_no_text_makes_it_fail(date, time):
    assert moment(date, time) is None or time.strip()


@pytest.mark.parametrize(
    ("date", "time"),
    [
        ("20191311", "100000"),
        ("20191111", "145960"),
        ("20191111", "1221831"),
        ("20191111", "10:00"),
        ("2019-11-11", "100000"),
        ("20191111", "10:00:00"),
        ("٢٠١٩١١١١", "100000"),
    ],
)
def test_what_is_malformed_is_no_instant(date, time):
    assert moment(date, time) is None


def test_every_entry_of_the_tables_becomes_an_instant():
    for time in TIMES:
        assert moment("20191111", time) is None
        date, mended, done = repair(7, "20191111", f" {time} ")
        assert moment(date, mended) is not None
        assert [(d.image, d.field, d.found, d.read_as) for d in done] == [(7, "time", time, mended)]
    for date in DATES:
        assert moment(repair(7, date, "100000")[0], "100000") == datetime(2018, 10, 15, 10)


def test_what_is_sound_stays_as_it_is():
    assert repair(7, " 20191111", "100000 ") == ("20191111", "100000", [])
