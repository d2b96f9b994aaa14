"""Public names, and what importing the package costs; units of a text."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import psfuture
from lipogram.errors import InvalidSetting
from psfuture.units import check_unit, source_words, split

HEAVY = "torch", "numpy", "transformers", "sentencepiece", "pandas", "sacrebleu", "matplotlib"


def test_the_package_loads_nothing_heavy():
    code = "import sys, psfuture, psfuture.cli; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in found.stdout.split()} & set(HEAVY)


@pytest.mark.parametrize("name", psfuture.__all__)
def test_every_public_name_is_there(name):
    assert getattr(psfuture, name) is not None


def test_another_name_is_not():
    with pytest.raises(AttributeError, match="'psfuture' has no attribute 'translate'"):
        psfuture.translate  # noqa: B018


@given(st.text())
def test_units_of_a_text(text):
    assert list(split(text, "word")) == text.split()
    assert "".join(split(text, "char")) == "".join(text.split())
    assert all(len(unit) == 1 for unit in split(text, "char"))
    assert source_words(split(text, "word"), "word") == tuple(text.split())
    assert source_words(split(text, "char"), "char") == ("".join(text.split()),)


def test_there_are_two_units():
    check_unit("word")
    check_unit("char")
    with pytest.raises(InvalidSetting, match="'line' is neither word nor char"):
        check_unit("line")
