"""The page in a real browser."""

import os
import re
import shutil
import wave

import numpy as np
import pytest

api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian's package of that name)")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
QUIET += ("--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required")
PHONE = {"width": 360, "height": 740}
SENTENCE = "a person opens the door"
TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET), timeout=60_000)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, request):
    """Function: a page of a server, which may ask for nothing elsewhere and say nothing on its console."""
    contexts = []

    def open_page(url, **options):
        context = browser.new_context(**{"viewport": {"width": 900, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.asked = []
        page.on("request", lambda one: page.asked.append(one.url))
        page.goto(url)
        return page

    yield open_page
    for number, context in enumerate(contexts):
        if folder := os.environ.get("SCREENSHOTS"):
            context.pages[0].screenshot(path=f"{folder}/{request.node.name}-{number}.png", full_page=True)
        context.close()


@pytest.fixture
def media(tmp_path):
    """Sound under the name of a video: something that any browser plays and seeks in."""
    folder = tmp_path / "media"
    folder.mkdir()
    for vid in "ABCDEF":
        with wave.open(str(folder / f"{vid}.wav"), "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(1)
            stream.setframerate(8000)
            stream.writeframes((128 + 40 * np.sin(np.arange(8000 * 40) / 3)).astype(np.uint8).tobytes())
        (folder / f"{vid}.wav").rename(folder / f"{vid}.mp4")
    return folder


def search(page, sentence=SENTENCE):
    page.get_by_label("What happens?").fill(sentence)
    page.keyboard.press("Enter")
    api.expect(page.locator("#status")).not_to_have_text(re.compile("^Searching"), timeout=20_000)


def position(page, video):
    """Seconds at which a video plays, once it does."""
    for _ in range(100):
        if video.evaluate("video => video.currentTime > 0 && !video.seeking"):
            break
        page.wait_for_timeout(100)
    return video.evaluate("video => video.currentTime")


def test_search_hover_and_play(features, media, listening_server, visit):
    """A user would see no moments, no values under the pointer, or the wrong part of the video."""
    with listening_server(features=features.folder, clip_seconds=2, media=media) as server:
        page = visit(server.url)
        search(page)
        page.get_by_text("6 moments, best first.").wait_for()
        results = page.locator("#results > li")
        answers = server.client.post("/v1/ground", json={"query": SENTENCE, "best": 10}).json()["answers"]
        assert results.count() == 6
        assert [one.text_content() for one in results.locator(".vid").all()] == [row["vid"] for row in answers]
        row = next(number for number, answer in enumerate(answers) if answer["vid"] == "B")
        card = results.nth(row)
        start, end, _ = answers[row]["pred_relevant_windows"][0]
        assert card.locator(".when").text_content() == f"{start:.1f} s – {end:.1f} s"
        assert card.locator("path.curve").count() == 3
        chart = card.locator(".chart svg")
        chart.scroll_into_view_if_needed()
        chart.hover(position={"x": 3.5 / 16 * chart.bounding_box()["width"], "y": 20})
        assert card.locator(".reading").text_content().startswith("7.5 s – 10.0 s: fused ")
        card.get_by_role("button", name="Play the moment").click()
        video = card.locator("video")
        assert start <= position(page, video) < start + 10
        silent = results.nth(next(number for number, answer in enumerate(answers) if answer["vid"] == "C"))
        assert "no sound" in silent.locator(".about").text_content()
        assert silent.locator("path.curve").count() == 1
        assert page.heard == []
        assert all(url.startswith((server.url, "data:")) for url in page.asked)


def test_by_keyboard_and_on_a_phone(features, listening_server, visit):
    """Who has no mouse could not choose videos or read values; on a phone one would scroll sideways."""
    with listening_server(features=features.folder, clip_seconds=2) as server:
        page = visit(server.url, viewport=PHONE, color_scheme="dark")
        page.locator("#choice summary").press("Enter")
        page.get_by_label("Videos whose id contains").fill("b")
        api.expect(page.locator("#videos input")).to_have_count(1)  # the list comes after the page
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        assert page.locator("#chosen").text_content() == "B"
        search(page)
        page.get_by_text("1 moment, best first.").wait_for()
        chart = page.locator(".chart").first
        chart.focus()
        for key in ("Home", "ArrowRight", "ArrowRight"):
            page.keyboard.press(key)
        assert page.locator(".reading").first.text_content().startswith("5.0 s – 7.5 s")
        assert chart.get_attribute("aria-valuenow") == "2"
        assert "5.0 s" in chart.get_attribute("aria-valuetext")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
        assert page.heard == []


def test_errors_and_an_empty_library_are_told(features, listening_server, visit):
    """A page that fails would look like one that still searches."""
    with listening_server() as server:
        page = visit(server.url)
        page.get_by_text("The library is empty").wait_for()
        search(page)
        page.get_by_text("No moments: the library is empty.").wait_for()
        content = (features.folder / "video/A.npy").read_bytes()
        server.client.post("/v1/videos", params={"vid": "<img src=x>"}, content=content)
        search(page)
        assert page.locator(".vid").text_content() == "<img src=x>"
        assert page.locator("img").count() == 0
        server.stop()
        search(page)
        page.get_by_text("The server does not answer.").wait_for()
        assert page.locator("#status").get_attribute("class") == "bad"


def test_a_token_is_asked_for(features, media, tmp_path, listening_server, visit):
    """Behind a token the page would be of no use, or its videos would not play."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    with listening_server(features=features.folder, media=media, token_file=file, clip_seconds=2) as server:
        page = visit(server.url)
        page.get_by_text("no valid token").wait_for()
        page.get_by_label("The token of this server").fill(TOKEN)
        search(page)
        page.get_by_text("6 moments, best first.").wait_for()
        page.get_by_role("button", name="Play the moment").first.click()
        assert position(page, page.locator("video").first) > 0


def test_every_video_of_a_large_library_can_be_picked(features, listening_server, visit):
    """Only the first thousand could be, and no other would play."""
    for number in range(1000):
        features.add(f"N{number:04}", 3, sound=False)
    with listening_server(features=features.folder, clip_seconds=2) as server:
        page = visit(server.url)
        page.get_by_text("1006 videos").wait_for()
        page.locator("#choice summary").press("Enter")
        page.get_by_label("Videos whose id contains").fill("N0999")
        api.expect(page.locator("#videos label")).to_have_text(["N0999"])
