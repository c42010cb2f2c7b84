"""Colours and totals agree with the server's scores."""

import pytest

from browser.chromium import fetch_json
from browser.explorer import HEIGHTS, expect, levels, put_cursor, runs, wait_until_scored, write

SENTENCE = "The ladder leans on the wall, and every layer of it is asked what it sees."


@pytest.mark.slow
def test_page_describes_the_model(page, server_url):
    about = fetch_json(f"{server_url}about")
    expect(page.get_by_role("heading", level=1)).to_have_text("charladder")
    expect(page.locator("#model")).to_contain_text(f"{about['layers']} layers of width {about['width']}")
    assert page.locator("#draft option").all_inner_texts() == about["drafters"]
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#swatches li")).to_have_count(12)


@pytest.mark.slow
def test_typing_colours_the_text_and_counts_its_bits(page):
    page.locator("#text").press_sequentially("The ladder", delay=20)
    wait_until_scored(page)
    assert len(levels(page)) == 10
    assert None not in levels(page)
    assert float(page.locator("#total").inner_text()) > 0
    expect(page.locator("#unit")).to_have_text("bits per character")


@pytest.mark.parametrize("text", [SENTENCE, "größer → 😀 e\u0301", "a\n\n  b\t\n"])
def test_the_total_is_the_servers(page, server_url, text):
    write(page, text)
    score = fetch_json(f"{server_url}score", {"text": text})
    assert page.locator("#total").inner_text() == f"{score['total_bits']:,.1f}"
    assert page.locator("#average").inner_text() == f"{score['bits_per_character']:.3f}"


def test_colour_is_the_level_of_the_character_bits(page, server_url):
    text = "The wall → größer"
    write(page, text)
    score = fetch_json(f"{server_url}score", {"text": text})
    bits = [0.0] * len(text)
    for place, value in zip(score["offsets"], score["bits"], strict=True):
        bits[place] += value
    beginnings = [0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10]
    assert levels(page) == [f"b{sum(value >= least for least in beginnings) - 1}" for value in bits]


def test_edit_scores_from_its_position_on(page, server_url):
    write(page, SENTENCE)
    before = levels(page)
    bodies = []
    page.on("request", lambda request: "score" in request.url and bodies.append(request.post_data_json))
    put_cursor(page, 40)
    page.keyboard.type("XQ")
    wait_until_scored(page)
    assert [body["begin"] for body in bodies] == [40]
    after = levels(page)
    assert after[:40] == before[:40]
    assert after[42:] != before[40:]
    text = SENTENCE[:40] + "XQ" + SENTENCE[40:]
    assert (
        page.locator("#total").inner_text() == f"{fetch_json(f'{server_url}score', {'text': text})['total_bits']:,.1f}"
    )


@pytest.mark.parametrize("keys", [["Delete"], ["Backspace", "Backspace"], ["Control+A", "Delete"], ["Control+A", "x"]])
def test_deleted_text_is_not_counted(page, server_url, keys):
    write(page, SENTENCE)
    put_cursor(page, 12)
    for key in keys:
        page.keyboard.press(key)
    wait_until_scored(page)
    text = page.locator("#text").input_value()
    assert "".join(run for run, _ in runs(page)) == text
    assert None not in levels(page)
    score = fetch_json(f"{server_url}score", {"text": text})
    assert page.locator("#total").inner_text() == f"{score['total_bits']:,.1f}"


def test_outdated_response_is_not_shown(page, server_url):
    held = []
    page.route("**/score", lambda route: route.continue_() if held else held.append(route))
    page.locator("#text").fill("The wall")
    while not held:
        page.wait_for_timeout(20)
    page.locator("#text").fill("The ladder on the wall")
    wait_until_scored(page)
    total = page.locator("#total").inner_text()
    held[0].fulfill(json={"characters": 1, "begin": 0, "bits": [99.0], "offsets": [0]})
    page.wait_for_timeout(300)
    assert page.locator("#total").inner_text() == total
    assert total == f"{fetch_json(f'{server_url}score', {'text': 'The ladder on the wall'})['total_bits']:,.1f}"


@pytest.mark.parametrize(
    "text",
    [
        "word " * 200,
        "x" * 700,
        "a\n\n\nb\n",
        "tab\tand\ttab " * 40,
        " " * 300 + "end",
        "e\u0301 👩‍👩‍👧 🇩🇪 שלום مرحبا 日本語 ﬁ \u00a0" * 20,
    ],
    ids=["words", "no blank", "empty lines", "tabs", "blanks", "scripts"],
)
def test_backdrop_is_aligned_with_the_text(open_page, text):
    """The text area and the backdrop break their lines alike: at every width they are equally high."""
    page = open_page()
    write(page, text)
    for width in (360, 500, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        foreground, background = page.evaluate(HEIGHTS)
        assert foreground == background
    assert "".join(run for run, _ in runs(page)) == text


def test_half_a_character_is_sent_as_the_replacement_character(page):
    bodies = []
    page.on("request", lambda request: "score" in request.url and bodies.append(request.post_data_json))
    page.locator("#text").evaluate(
        "(area) => { area.value = 'a\\ud83d b'; area.dispatchEvent(new InputEvent('input', {bubbles: true})); }"
    )
    wait_until_scored(page)
    assert bodies[-1]["text"] == "a\ufffd b"
    assert page.locator("#error").is_hidden()
