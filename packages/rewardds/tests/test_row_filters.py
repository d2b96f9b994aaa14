"""What a model writes that is no text goes; what people write stays."""

import pytest

from lipogram.errors import InvalidSetting
from rewardds.row_filters import (
    ANSWER,
    QUESTION,
    RowFilter,
    letter_share,
    odd_share,
    repeated_share,
)

TEXTS = [
    "What is the usual dose of paracetamol for an adult with a fever?",
    "Wie hoch ist der Zinssatz für ein Darlehen über 10.000 € mit fünf Jahren Laufzeit?",
    "成人发烧时对乙酰氨基酚的常用剂量是多少\uff1f请简要说明。",
    "هل يمكن أخذ الدواء بعد الطعام؟ أرجو التوضيح.",
    "दवा कितनी बार लेनी चाहिए? कृपया बताइए।",
    "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a",
    "1. Rest for two days.\n2. Drink water.\n3. See a doctor if the fever lasts.",
    "👩‍⚕️ says: take one tablet in the morning.",
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_people_write_stays(text):
    assert QUESTION.fault(text) is None
    assert ANSWER.fault(text) is None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "short"),
        (" \n\t ", "short"),
        ("Why? ok", "short"),
        ("a b c d " * 600, "long"),
        ("What is \ufffd it for then?", "charset"),
        ("What is \x07 it for then?", "charset"),
        ("What is \ue000 it for then?", "charset"),
        (f"What is {chr(0xD800)} it for then?", "charset"),
        ("?!?! .... ---- #### ????", "charset"),
        ("take two tablets a day, " * 20, "repetition"),
        ("No" + "o" * 200, "repetition"),
        ("吃药吧" * 40, "repetition"),
    ],
)
def test_the_first_fault_is_told(text, fault):
    assert QUESTION.fault(text) == fault


def test_spaces_around_a_text_do_not_count():
    bounds = RowFilter(min_chars=3, max_chars=4)
    assert bounds.fault("   ab   ") == "short"
    assert bounds.fault("   abcd   ") is None


def test_a_bound_is_a_bound():
    text = "ab?? cd??"  # 4 of 8
    assert letter_share(text) == 0.5
    assert RowFilter(min_letters=0.5).fault(text) is None
    assert RowFilter(min_letters=0.51).fault(text) == "charset"
    assert letter_share("\u0915\u093f\u0902") == 1  # marks make up half of some scripts
    assert odd_share("ab\x00d") == 0.25
    assert RowFilter(max_odd=0.25).fault("ab\x00d") is None
    assert RowFilter(max_odd=0.24).fault("ab\x00d") == "charset"


def test_repetition_counts_pieces_that_were_there_before():
    text = "abcdefghijklmno" * 2 + "x"  # 31 characters, 22 pieces, of which 6 again
    assert repeated_share(text) == pytest.approx(1 - 16 / 22)
    assert repeated_share(text.upper() + "   ") == pytest.approx(1 - 16 / 22)
    assert repeated_share("abcdefghijklmn" * 2) == 0  # 28: too short to be a loop
    assert RowFilter(max_repetition=0.28).fault(text) is None
    assert RowFilter(max_repetition=0.27).fault(text) == "repetition"


@pytest.mark.parametrize(
    "bounds",
    [
        {"min_chars": 0},
        {"min_chars": 5, "max_chars": 4},
        {"max_odd": -0.1},
        {"min_letters": 1.1},
        {"max_repetition": float("nan")},
    ],
)
def test_bounds_that_bound_nothing_are_refused(bounds):
    with pytest.raises(InvalidSetting, match="|".join(bounds)):
        RowFilter(**bounds)
