"""Take the README's picture of `psfuture serve`, in the middle of a sentence.

python packages/psfuture/figures/serve.py [FILE] [light|dark]

Needs Chromium (`apt-get install chromium`), Playwright for Python and the packaged model.
"""

import shutil
import sys
import tempfile
import threading
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from psfuture.models import load
from psfuture.server import create_app, create_server

TYPED = "An interpreter starts to speak while the speaker is still talking, "
BEGUN = "and nev"
PAUSE_MS = 120  # between two keys
SIZE = {"width": 1120, "height": 900}


def main(file: Path, scheme: str) -> None:
    """Serve the page, type, and take its picture."""
    started = threading.Event()
    addresses: list[str] = []

    def ready(url: str) -> None:
        addresses.append(url)
        started.set()

    server = create_server(create_app(load("enpt")), ready=ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    started.wait()
    try:
        with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
            context = playwright.chromium.launch_persistent_context(
                profile,
                executable_path=shutil.which("chromium"),
                args=["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"],
                viewport=SIZE,
                device_scale_factor=1.5,
                color_scheme=scheme,
            )
            page = context.pages[0]
            page.goto(addresses[0])
            typing = page.locator("#typing")
            typing.press_sequentially(TYPED + BEGUN, delay=PAUSE_MS)
            words = len(f"{TYPED}{BEGUN}".split()) - 1
            for lane in ("psfuture", "wait-k"):
                expect(page.locator(f"#{lane}-counts")).to_contain_text(f"{words} ·")
            page.wait_for_timeout(500)  # words fade in
            page.screenshot(path=file, full_page=True)
            context.close()
    finally:
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("serve.png"),
        sys.argv[2] if len(sys.argv) > 2 else "light",
    )
