from hypothesis import example, given
from hypothesis import strategies as st

from privacyrestore.stop_strings import StopStrings

letters = st.text("ab ", max_size=25)
words = st.lists(st.text("ab ", min_size=1, max_size=4), max_size=3)


def first_stop(text, stop):
    """The text before the first stop string that is complete, and whether there is one."""
    for end in range(len(text) + 1):
        places = [text[:end].index(word) for word in stop if word in text[:end]]
        if places:
            return text[: min(places)], True
    return text, False


@given(text=letters, stop=words)
@example(text="aab", stop=["ab"])
@example(text="aaab", stop=["aab", "b"])
def test_letter_by_letter_the_text_ends_before_the_first_stop(text, stop):
    through, shown, stopped = StopStrings(stop), "", False
    expected, there = first_stop(text, stop)
    for letter in text:
        piece, stopped = through.push(letter)
        shown += piece
        assert expected.startswith(shown)  # nothing has to be taken back
        if stopped:
            break
    assert stopped == there
    assert shown + ("" if stopped else through.flush()) == expected


@given(pieces=st.lists(letters, max_size=6), stop=words)
def test_pieces_of_any_size_lose_and_add_nothing(pieces, stop):
    through, shown, text = StopStrings(stop), "", "".join(pieces)
    for piece in pieces:
        more, stopped = through.push(piece)
        shown += more
        if stopped:
            assert any(text[len(shown) :].startswith(word) for word in stop)
            assert not any(word in shown for word in stop)
            return
    assert shown + through.flush() == text
    assert not any(word in text for word in stop)


@given(text=letters, stop=words)
def test_only_the_beginning_of_a_stop_string_is_held_back(text, stop):
    through, shown = StopStrings(stop), ""
    for letter in text:
        piece, stopped = through.push(letter)
        shown += piece
        if stopped:
            return
    held = text[len(shown) :]
    assert held == "" or any(word.startswith(held) for word in stop)
