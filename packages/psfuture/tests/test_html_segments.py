import time

import hypothesis.strategies as st
from hypothesis import given

from psfuture.html_segments import segments


def texts(page: str, *silent: str) -> list[str]:
    return [found for run in segments(page, frozenset(silent)) if (found := run.text.strip())]


def test_runs_are_cut_at_blocks_and_not_within_a_line():
    page = "<body><p>One <b>bold</b> &amp; <a href='x>y'>linked</a>.</p><ul><li>Two<li>Three</ul>"
    assert texts(page) == ["One bold & linked.", "Two", "Three"]


def test_programs_heads_comments_and_silent_classes_say_nothing():
    page = """<!DOCTYPE html><html><head><title>no</title></head><body>
        <script>if (a < b) { "<p>no</p>" }</script><!-- <p>no</p> -->
        <p>One <span class="url more">no <span>no</span></span>two.</p>
        <div class="url">no <div>no<img src="x"></div> no</div>
        <PRE>no</PRE><p>three</p></body></html>"""
    assert texts(page, "url") == ["One two.", "three"]


def test_an_anchor_is_the_innermost_blocks():
    page = '<div id="out"><p id="in"><span id="no">One</span></p>Two<p>Three</p></div>'
    found = {run.text: run.anchor for run in segments(page)}
    assert (found["One"], found["Two"], found["Three"]) == ("in", "out", "")


def test_of_a_switch_the_last_reading_counts():
    page = (
        '<p>Press <span class="switchinline"><span hidden="true" class="MAC">Command<span> key'
        '</span></span><span hidden="true">Ctrl</span></span>+Z, <span hidden>then</span> rest.</p>'
    )
    assert texts(page) == ["Press Ctrl+Z, then rest."]


def test_empty_elements_of_xhtml_hold_nothing():
    assert texts('<p>One<a class="url" /> two<br/>three <span class="url"/>four</p>', "url") == [
        "One two\nthree four"
    ]


def test_equal_structure_gives_equal_borders_whatever_the_words():
    english = "<div><p>One</p><pre>code</pre><ul><li>Two</li><li></li></ul></div>"
    german = "<div><p>Eins <em>a</em></p><pre>x</pre><ul><li>Zwei</li><li>mehr</li></ul></div>"
    borders = [[run.border for run in segments(page)] for page in (english, german)]
    assert borders[0] == borders[1]
    more = [run.border for run in segments(german.replace("</ul>", "<li></li></ul>"))]
    assert more != borders[0]


@given(st.text(alphabet="<>/pspan =\"'-!&;lt", max_size=60))
def test_no_page_is_too_broken(page):
    assert isinstance(segments(page), list)


def test_tags_that_never_end_are_not_searched_for_their_end_again_and_again():
    started = time.perf_counter()
    segments("<p " * 50_000 + "<p '" * 50_000 + "<div>" * 50_000 + "</p>" * 50_000)
    assert time.perf_counter() - started < 20
