"""Policies and futures as a command line names them."""

import pytest

from lipogram.errors import InvalidSetting
from psfuture.futures import Ellipsis, EndOfSentence, Fixed, Frequent, Multi, Oracle, Random
from psfuture.policies import (
    AlignAtt,
    HoldN,
    Limits,
    LocalAgreement,
    Offline,
    PsFuture,
    WaitK,
)
from psfuture.policy_text import FUTURES, POLICIES, make_future, make_policy

LIMITS = Limits(2, 5, 4)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("wait:3", WaitK(3)),
        ("wait:3:0.2", WaitK(3, 0.2)),
        ("agreement:3", LocalAgreement(3)),
        ("agreement", LocalAgreement(2)),
        ("hold:4", HoldN(4)),
        ("hold", HoldN(4)),
        ("hold:0", HoldN(0)),
        ("alignatt:1", AlignAtt(1)),
        ("alignatt", AlignAtt(2)),
        ("offline", Offline()),
    ],
)
def test_each_policy_by_its_name(text, policy):
    assert make_policy(text) == policy
    assert make_policy(text, prefix_eos=False).prefix_eos is False
    if text.partition(":")[0] in ("wait", "alignatt"):
        assert make_policy(text, limits=LIMITS).limits == LIMITS


def test_psfuture_takes_its_threshold_and_its_settings():
    held = Fixed("x")
    made = make_policy("psfuture:0.3", future=held, reduce="max", divergence="js", limits=LIMITS)
    assert made == PsFuture(0.3, held, "js", "max", limits=LIMITS)
    assert make_policy("psfuture", future=held) == PsFuture(future=held)
    assert make_policy("psfuture:-1", future=held) == PsFuture(-1, held)
    assert make_policy("psfuture:1e-4").threshold == 1e-4
    assert make_policy("psfuture").future.words == ("and", "so", "on.")


def test_agree_writes_what_both_would_write():
    made = make_policy("agree", future="ellipsis")
    assert (made.divergence, made.threshold) == ("agree", 0.0)
    assert isinstance(made.future, Ellipsis)


def test_the_end_of_sentence_opens_prefixes():
    for prefix_eos in (True, False):
        made = make_policy("psfuture:0.1", future="eos", prefix_eos=prefix_eos)
        assert isinstance(made.future, EndOfSentence)
        assert made.prefix_eos is False


def test_each_future_by_its_name(tmp_path):
    text = tmp_path / "a b.txt"
    text.write_text("one two three\none two four\n", encoding="utf-8")
    assert make_future("fixed: and so on.").words == ("and", "so", "on.")
    assert make_future("fixed").words == ("and", "so", "on.")
    assert make_future("fixed: a: b").words == ("a:", "b")
    assert type(make_future("ellipsis")) is Ellipsis
    assert type(make_future("eos")) is EndOfSentence
    frequent = make_future(f"frequent:{text}")
    assert type(frequent) is Frequent
    assert frequent.invent([("x",)], ()) == [[("one", "two")]]
    drawn = make_future(f"random:{text}")
    assert type(drawn) is Random
    assert drawn.words == ["four", "one", "three", "two"]
    assert make_future("oracle").length == 2
    assert make_future("oracle:5").length == 5


@pytest.mark.parametrize("text", ["lm:tiny-random", "lm:tiny-random:gpt2"])
def test_a_language_model_by_its_name(text):
    assert make_future(text).invent([("a",)], ())[0][0]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("waitk:3", "waitk.*psfuture:0.*offline"),
        ("", "psfuture:0.*wait:3"),
        ("wait", "number after the colon"),
        ("wait:x", "wait:x.*number"),
        ("wait:3:y", "number"),
        ("wait:1.5", "number"),
        ("wait:0", "k >= 1"),
        ("psfuture:low", "psfuture:low.*number"),
        ("psfuture:nan", "nan"),
        ("psfuture:2", "threshold is 2"),
        ("agree:1", "agree takes no '1'"),
        ("offline:2", "offline takes no '2'"),
        ("agreement:1", "2 drafts"),
        ("hold:-1", "-1"),
        ("alignatt:0", "1 last word"),
    ],
)
def test_a_policy_that_is_none_says_what_there_is(text, match):
    with pytest.raises(InvalidSetting, match=match):
        make_policy(text)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("fixd", "fixd.*lm.*oracle"),
        ("fixed: ", "at least one word"),
        ("ellipsis:3", "ellipsis takes no '3'"),
        ("eos:1", "eos takes no"),
        ("oracle:x", "number"),
        ("oracle:0", "0 words"),
        ("frequent", "text file"),
        ("frequent:/nowhere/at/all", "text file.*nowhere"),
        ("random:/nowhere/at/all", "text file"),
    ],
)
def test_a_future_that_is_none_says_what_there_is(text, match):
    with pytest.raises(InvalidSetting, match=match):
        make_future(text)


def test_text_that_is_no_text_is_refused(tmp_path):
    held = tmp_path / "x.bin"
    held.write_bytes(b"\xff\xfe\x00 a")
    with pytest.raises(InvalidSetting, match="text file"):
        make_future(f"frequent:{held}")
    held.write_text("\n\n")
    with pytest.raises(InvalidSetting, match="no 2 words"):
        make_future(f"frequent:{held}")
    with pytest.raises(InvalidSetting, match="words to draw from"):
        make_future(f"random:{held}")


@pytest.mark.parametrize("text", ["wait:3", "agreement:2", "hold:4", "alignatt:2", "offline"])
def test_settings_of_psfuture_belong_to_it_alone(text):
    with pytest.raises(InvalidSetting, match=f"reduce.*{text.partition(':')[0]}"):
        make_policy(text, reduce="max")


def test_the_lists_name_what_can_be_made():
    for text in POLICIES.split(", "):
        make_policy(text)
    plain = [text for text in FUTURES.split(", ") if text.partition(":")[0] in ("ellipsis", "eos")]
    assert len(plain) == 2
    assert isinstance(make_policy("psfuture", future=Multi([Oracle()])).future, Multi)
