"""The page in a real browser: headless Chromium, driven by Playwright, that sees loopback alone."""

import json
import shutil
import time

import pytest

from psfuture.server import ServerLimits

from .echo_server import EchoBackend, english_portuguese, serving

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = [
    "<script>alert(1)</script>",
    "<img/src=x/onerror=alert(2)>",
    "<svg/onload=alert(3)>",
    "</bdi></li></ol><iframe/srcdoc='<script>alert(4)</script>'>",
    "javascript:alert(5)",
    "{{7*7}}${7*7}",
    "&lt;b&gt;&amp;",
    "\"'`onfocus=alert(6)",
]
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: `bash tools/chromium.sh` brings it, as root on Debian"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One with a profile of its own, empty in the beginning."""
    with playwright.sync_playwright() as running:
        context = running.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, args=FLAGS
        )
        context.set_default_timeout(30_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        yield context
        context.close()


@pytest.fixture(scope="module")
def site():
    with serving(EchoBackend()) as (url, _):
        yield url


@pytest.fixture
def open_page(browser):
    """Opens a page; nothing but what is `expected` may go wrong in it, nor leave its server."""
    opened, wrong = [], []

    def opening(url, *, expected="nothing", size=(1200, 900), scheme="light"):
        page = browser.new_page()
        opened.append(page)
        page.set_viewport_size({"width": size[0], "height": size[1]})
        page.emulate_media(color_scheme=scheme)

        def note(what):
            if expected not in what:
                wrong.append(what)

        page.on("console", lambda message: note(f"console: {message.text}"))
        page.on("pageerror", lambda error: note(f"error: {error}"))
        page.on("dialog", lambda dialog: (note("a dialog"), dialog.dismiss()))
        page.on("popup", lambda _: note("another page"))
        page.on("request", lambda sent: sent.url.startswith(url) or note(f"request: {sent.url}"))
        page.goto(url)
        playwright.expect(page.locator("#model")).not_to_have_text("…")
        return page

    yield opening
    for page in opened:
        page.close()
    assert wrong == []


def write(page, text):
    page.locator("#typing").press_sequentially(text)


def texts(page, selector):
    return page.locator(selector).all_text_contents()


def shows(page, selector, expected):
    playwright.expect(page.locator(selector)).to_have_text(expected)


def test_words_are_read_at_spaces_and_enter_ends_the_sentence(open_page, site):
    page = open_page(site)
    shows(page, "#model", "echo")
    shows(page, "#future", "“and so on.”")
    assert page.evaluate("document.activeElement.id") == "typing"
    write(page, "One two thr")
    # Of the last word read the model is not sure, so PsFuture waits; "one" is begun, not shown.
    shows(page, ".cell .psfuture .begun", ["One"])
    assert texts(page, ".cell > .source .word") == ["One", "two"]
    write(page, "ee ")
    shows(page, ".cell .psfuture .target", ["One"])
    shows(page, ".cell:nth-child(3) .psfuture .begun", ["two"])
    page.keyboard.press("Enter")
    shows(page, ".cell .psfuture .target", ["One", "two", "three"])
    shows(page, ".cell .wait-k .target", ["One", "two", "three"])
    # What was written after the end stands in a column of its own.
    shows(page, ".cell:last-child .psfuture .target", ["two", "three"])
    times = texts(page, ".cell .psfuture .time")
    assert [time.partition(" · ")[0] for time in times] == ["3", "3", "3"]
    assert all(time.endswith(" s") for time in times)
    assert page.locator("#typing").input_value() == ""


def test_the_next_sentence_begins_after_enter_and_the_last_is_kept(open_page, site):
    page = open_page(site)
    write(page, "first sentence")
    page.keyboard.press("Enter")
    write(page, "second ")
    shows(page, "#earlier .source", ["first sentence"])
    shows(page, "#earlier .psfuture .word", ["first sentence"])
    shows(page, "#earlier .wait-k .word", ["first sentence"])
    assert texts(page, ".cell > .source .word") == ["second"]


def test_lambda_holds_at_once_and_changes_decisions(open_page, site):
    page = open_page(site)
    write(page, "one two three ")
    shows(page, "#decisions li:first-child .verdict", "READ")
    shows(page, "#psfuture-counts", "3 · 1")
    before = page.locator("#line").bounding_box()["x"]
    page.locator("#threshold").focus()
    page.keyboard.press("End")
    shows(page, "#threshold-value", "0.5")
    # The word that waited is written; what the model would say next is the end of the sentence.
    shows(page, "#decisions li:nth-child(2) .verdict", "WRITE")
    tokens = texts(page, "#decisions .token .word")
    assert tokens[:3] == ["end", "three", "two"]  # "three", that waited, has one bar
    shows(page, "#psfuture-counts", "3 · 2")
    assert page.locator("#line").bounding_box()["x"] > before
    page.keyboard.press("Home")
    shows(page, "#threshold-value", "0.0005")
    write(page, "four ")
    shows(page, "#decisions li:first-child .verdict", "READ")
    shows(page, "#psfuture-behind", "2")


def test_a_bar_ends_beyond_the_line_exactly_where_the_decision_was_to_read(open_page, site):
    page = open_page(site)
    write(page, "one two three four ")
    shows(page, "#psfuture-counts", "4 · 2")
    line = page.locator("#line").bounding_box()["x"]
    rows = page.locator("#decisions li")
    assert rows.count() > 4
    for row in rows.all():
        bar = row.locator(".bar").bounding_box()
        verdict = row.locator(".verdict").text_content()
        assert (verdict == "READ") == (bar["x"] + bar["width"] > line)
    thumb = page.locator("#threshold").evaluate(
        "s => s.getBoundingClientRect().x + 10 + (s.clientWidth - 20) * s.value / s.max"
    )
    assert abs(thumb - line) < 2


def test_wait_k_goes_beside_it_and_k_can_be_chosen(open_page, site):
    page = open_page(site)
    write(page, "one two three four five ")
    shows(page, ".cell .wait-k .target", ["one", "two"])
    shows(page, "#wait-k-behind", "3")
    page.locator("#k").select_option("1")
    shows(page, ".cell .wait-k .target", ["one", "two", "three", "four"])
    shows(page, "#wait-k-behind", "1")
    write(page, "six ")
    shows(page, ".cell .wait-k .target", ["one", "two", "three", "four", "five"])
    shows(page, "#wait-k-al", "2.6")


def test_a_pasted_text_is_replayed_at_its_speed_and_can_be_stopped(open_page, site):
    page = open_page(site)
    page.locator("summary").click()
    page.locator("#pasted").fill("One two three. Four five\nsix seven eight nine ten")
    page.locator("#speed").fill("400")
    shows(page, "#speed-value", "400 words a minute")
    begun = time.monotonic()
    page.locator("#play").click()
    playwright.expect(page.locator("#typing")).to_be_disabled()
    # Sentences end at full stops and at the ends of lines.
    shows(page, "#earlier .source", ["Four five", "One two three."])
    assert time.monotonic() - begun >= 5 * 0.15
    shows(page, "#earlier .psfuture .word", ["Four five", "One two three."])
    page.locator("#stop").click()
    playwright.expect(page.locator("#typing")).to_be_enabled()
    stopped = texts(page, ".cell > .source .word")
    page.wait_for_timeout(500)
    assert texts(page, ".cell > .source .word") == stopped
    assert "ten" not in stopped


def test_markup_that_is_typed_is_text(open_page, site):
    page = open_page(site)
    count = "document.querySelectorAll('script, img, svg, iframe, b, [onerror], [onload]').length"
    elements = page.evaluate(count)
    page.locator("#threshold").focus()
    page.keyboard.press("End")
    page.locator("#typing").focus()
    for word in HOSTILE:
        page.keyboard.insert_text(f"{word} ")
    page.keyboard.press("Enter")
    shows(page, ".cell .psfuture .target", HOSTILE)
    shows(page, ".cell .wait-k .target", HOSTILE)
    assert texts(page, ".cell > .source .word") == [*HOSTILE, "end"]
    write(page, "next ")
    shows(page, "#earlier .source", " ".join(HOSTILE))
    assert page.evaluate(count) == elements


def test_words_that_come_too_fast_for_the_server_are_not_lost(open_page):
    with serving(EchoBackend(), limits=ServerLimits(words_per_second=4)) as (url, _):
        page = open_page(url, expected="status of 429")
        words = [f"word{at}" for at in range(12)]
        page.keyboard.insert_text(f"{' '.join(words)} ")
        page.keyboard.press("Enter")
        shows(page, ".cell .psfuture .target", words)


def test_a_sentence_too_long_for_the_server_is_ended(open_page):
    with serving(EchoBackend(), limits=ServerLimits(words=5)) as (url, _):
        page = open_page(url)
        write(page, "a b c d e f g ")
        shows(page, "#earlier .psfuture .word", "a b c d e")
        assert texts(page, ".cell > .source .word") == ["f", "g"]


def test_words_of_any_script_pass_through(open_page, site):
    page = open_page(site)
    words = ["שלום", "مرحبا", "नमस्ते", "e\u0301te\u0301", "👩‍👩‍👧", "中文", "\u202eabc"]
    for word in words:
        page.locator("#typing").focus()
        page.keyboard.insert_text(f"{word} ")
    page.keyboard.press("Enter")
    shows(page, ".cell .psfuture .target", words)


def test_the_trace_is_copied_as_json(open_page, site):
    page = open_page(site)
    write(page, "one two three")
    page.keyboard.press("Enter")
    shows(page, ".cell .wait-k .target", ["one", "two", "three"])
    shows(page, ".cell .psfuture .target", ["one", "two", "three"])
    page.locator("#copy").click()
    shows(page, "#copied", "Copied.")
    trace = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert (trace["model"], trace["k"], trace["threshold"]) == ("echo", 3, 0.02)
    assert (trace["source"], trace["finished"]) == (["one", "two", "three"], True)
    assert {name: lane["words"] for name, lane in trace["lanes"].items()} == {
        "psfuture": ["one", "two", "three"],
        "wait-k": ["one", "two", "three"],
    }
    decisions = trace["lanes"]["psfuture"]["decisions"]
    assert [d["wrote"] for d in decisions] == [False, True, False, True, False]


def test_without_a_clipboard_the_trace_can_be_taken_from_the_page(open_page, site):
    page = open_page(site)
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    write(page, "one ")
    shows(page, "#psfuture-counts", "1 · 0")
    page.locator("#copy").click()
    assert json.loads(page.locator("#trace").input_value())["source"] == ["one"]


def test_a_server_that_is_full_says_so_on_the_page(open_page):
    with serving(EchoBackend(), limits=ServerLimits(sessions=1)) as (url, sessions):
        first = open_page(url)
        write(first, "one ")
        shows(first, "#psfuture-counts", "1 · 0")
        second = open_page(url, expected="status of 503")
        write(second, "one ")
        shows(second, "#error", "1 sentences are being typed already: try again later")
        # A tab that goes away gives its place to others.
        first.close()
        deadline = time.monotonic() + 10
        while len(sessions):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        write(second, "two three ")
        shows(second, ".cell .psfuture .begun", ["two"])
        playwright.expect(second.locator("#error")).to_be_hidden()


def test_a_model_that_fails_is_told_on_the_page(open_page, site):
    page = open_page(site)
    write(page, "poison ")
    playwright.expect(page.locator("#error")).to_contain_text("not finite")
    write(page, "and on")
    page.keyboard.press("Enter")
    shows(page, ".cell .psfuture .target", ["and", "on"])


def test_a_server_that_stops_is_told_on_the_page(open_page):
    with serving(EchoBackend()) as (url, _):
        page = open_page(url)
        write(page, "one ")
        shows(page, "#psfuture-counts", "1 · 0")
    shows(page, "#error", "The sentence was closed: the server stops.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(open_page, site, scheme):
    page = open_page(site, size=(320, 640), scheme=scheme)
    write(page, f"one two three {'long' * 24} four five six ")
    shows(page, ".cell .wait-k .target", ["one", "two", "three", "long" * 24])
    page.locator("summary").click()
    page.locator("#pasted").fill("word " * 60)
    page.keyboard.press("Tab")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    outside = page.evaluate(
        "[...document.querySelectorAll('main *, footer *')].filter(e => !e.closest('.unseen')"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
    )
    assert outside == []


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(open_page, site):
    page = open_page(site)
    reached = [page.evaluate("document.activeElement.id")]
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert reached == ["typing", "SUMMARY", "threshold", "k", "copy"]
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    reached = []
    for _ in range(4):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    assert reached == ["pasted", "speed", "play", "threshold"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(open_page, site, scheme):
    page = open_page(site, scheme=scheme)
    write(page, "one two three four ")
    shows(page, ".cell .wait-k .target", ["one"])
    weak = page.evaluate(
        """() => {
          const canvas = document.createElement("canvas").getContext("2d", {
            willReadFrequently: true,
          });
          const rgba = (colour) => {
            canvas.clearRect(0, 0, 1, 1);
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
            return [...canvas.getImageData(0, 0, 1, 1).data];
          };
          const behind = (element) => {
            for (let at = element; at; at = at.parentElement) {
              const colour = rgba(getComputedStyle(at).backgroundColor);
              if (colour[3] === 255) return colour;
            }
          };
          const luminance = ([r, g, b]) => {
            const [R, G, B] = [r, g, b].map((v) => v / 255)
              .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
            return 0.2126 * R + 0.7152 * G + 0.0722 * B;
          };
          const shown = [...document.querySelectorAll(
            ".word:not(.begun), .time, .verdict, dt, dd, h2, h3, .hint, .legend span, label")];
          return shown.filter((e) => e.textContent.trim() && !e.closest(".unseen")).map((e) => {
            const [a, b] = [luminance(rgba(getComputedStyle(e).color)), luminance(behind(e))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.className || e.tagName];
          }).filter(([ratio]) => ratio < 4.5);
        }"""
    )
    assert weak == []


def test_a_sentence_on_the_real_model(open_page):
    with serving(english_portuguese()) as (url, _):
        page = open_page(url)
        write(page, "The new version of the program can be ")
        playwright.expect(page.locator(".cell .wait-k .target").first).to_be_visible()
        write(page, "installed")
        page.keyboard.press("Enter")
        playwright.expect(page.locator("#psfuture-text")).to_contain_text("instalad")
        playwright.expect(page.locator("#wait-k-text")).to_contain_text("instalad")
