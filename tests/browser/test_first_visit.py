"""The first visit: a scored example, explained rows, and a text that survives a reload."""

from bisect import bisect

import pytest

from browser.chromium import fetch_json
from browser.explorer import classes, expect, levels, put_cursor, shown_layers, wait_until_scored, write

pytestmark = pytest.mark.slow


def test_first_visit_shows_a_scored_example(open_page, server_url):
    page = open_page(first=True)
    expect(page.locator("#total")).not_to_have_text("0.0")
    wait_until_scored(page)
    text = page.locator("#text").input_value()
    assert len(text) > 50
    assert None not in levels(page)
    bits = fetch_json(f"{server_url}score", {"text": text})["bits"]
    place = max(range(8, len(bits)), key=bits.__getitem__)
    assert page.evaluate("document.getElementById('text').selectionEnd") == place
    expect(page.locator("#place")).to_contain_text(f"Character {place + 1}")
    expect(page.locator("#rows-help")).to_contain_text("Each row is a layer of the network")
    expect(page.locator("#text")).not_to_be_focused()


def test_three_examples_can_be_tried_and_undone(page):
    write(page, "my own words")
    buttons = page.locator("#examples button")
    assert buttons.all_inner_texts() == ["Prose", "Code", "A broken pattern"]
    texts = set()
    for name in buttons.all_inner_texts():
        page.get_by_role("button", name=name).click()
        wait_until_scored(page)
        texts.add(page.locator("#text").input_value())
        assert page.evaluate("document.getElementById('text').selectionEnd") >= 8
    assert len(texts) == 3
    page.locator("#text").focus()
    for _ in range(3):
        page.keyboard.press("Control+z")
    assert page.locator("#text").input_value() == "my own words"


def test_the_text_and_the_cursor_survive_a_reload(page):
    write(page, "The ladder leans on the wall.")
    put_cursor(page, 11)
    expect(page.locator("#place")).to_contain_text("Character 12")
    page.reload()
    wait_until_scored(page)
    assert page.locator("#text").input_value() == "The ladder leans on the wall."
    expect(page.locator("#place")).to_contain_text("Character 12")
    assert None not in levels(page)


def test_an_empty_text_stays_empty_after_a_reload(page):
    page.reload()
    expect(page.locator("#continue")).to_be_enabled()
    assert page.locator("#text").input_value() == ""


LETTERS = "abcdefghijklmnopqrstuvwxyz "


def set_alphabet(page) -> None:
    """Reloads the page with an alphabet of lower-case letters and the blank."""

    def about(route) -> None:
        response = route.fetch().json()
        alphabet = {"kind": "letters", "size": len(LETTERS), "letters": LETTERS, "unknown": "error"}
        route.fulfill(json=response | {"alphabet": alphabet})

    page.route("**/about", about)
    page.reload()
    expect(page.locator("#continue")).to_be_enabled()


def test_only_unknown_letters_are_marked(page, server_url):
    set_alphabet(page)
    write(page, "the Wall \U0001f600 and the wall")
    expect(page.locator("#left-out")).to_contain_text("2 of these characters")
    bits = iter(fetch_json(f"{server_url}score", {"text": "the all  and the wall"})["bits"])
    beginnings = [0, 0.25, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10]
    for letter, names in zip("the Wall \U0001f600 and the wall", classes(page), strict=True):
        level = f"b{bisect(beginnings, next(bits)) - 1}" if letter in LETTERS else None
        assert names & {"unknown"} == ({"unknown"} if level is None else set())
        assert level is None or level in names
    put_cursor(page, 4)
    expect(page.locator("#place")).to_contain_text("is not in the network's alphabet and is left out")
    put_cursor(page, 5)
    expect(page.locator("#place")).to_contain_text("Character 6, “a”")


def test_examples_use_the_alphabet(open_page):
    page = open_page()
    set_alphabet(page)
    page.get_by_role("button", name="Prose").click()
    wait_until_scored(page)
    text = page.locator("#text").input_value()
    assert set(text) <= set(LETTERS)
    assert text.startswith("the harbour was quiet")


def head(**changes) -> dict:
    candidates = [{"id": id, "text": f"\\x{id:02x}", "probability": 0.1} for id in (0x86, 0x92, 0xE2, 0x41, 0xC3)]
    return {"term": "main", "target": 1, "actual": None, "last_learned": None, "likeliest": candidates} | changes


def test_a_head_that_stopped_learning_early_is_dimmed_with_the_reason(page):
    rows = [
        {"layer": 1, "heads": [head(last_learned={"step": 60, "progress": 0.08})]},
        {"layer": 2, "heads": [head(last_learned={"step": 600, "progress": 0.8})]},
        {"layer": 3, "heads": [head(last_learned={"step": 750, "progress": 1.0})]},
    ]
    page.route("**/layers", lambda route: route.fulfill(json={"symbol": None, "bits": None, "place": 0, "rows": rows}))
    page.locator("#text").fill("a")
    expect(page.locator("[data-layer='1'] .learned")).to_contain_text("dimmed: it learned only until 8% of training")
    assert [row["layer"] for row in shown_layers(page)] == [3, 2, 1]
    assert page.locator(".head.stale").count() == 1
    wait_until_scored(page)
    expect(page.locator("#place")).to_contain_text("End of the text")
    colours = page.evaluate(
        """() => [1, 2, 3].map((layer) =>
            getComputedStyle(document.querySelector(`[data-layer='${layer}'] .symbol`)).color)"""
    )
    assert colours[0] != colours[1] == colours[2]


@pytest.mark.parametrize(
    ("place", "meanings"),
    [
        # After two bytes of the arrow a third one completes a character, and other bytes are invalid.
        (2, ["ↆ", "→", "not UTF-8", "not UTF-8", "not UTF-8"]),
        (1, ["U+2180\u2013U+21BF", "U+2480\u2013U+24BF", "not UTF-8", "not UTF-8", "not UTF-8"]),
        (0, ["not UTF-8", "not UTF-8", "U+2000\u2013U+2FFF", None, "Latin U+00C0\u2013U+00FF"]),
    ],
)
def test_predicted_bytes_show_their_character_ranges(page, place, meanings):
    answer = {"symbol": {"id": 0, "text": "x"}, "bits": 1.0, "place": place, "rows": [{"layer": 1, "heads": [head()]}]}
    page.route("**/layers", lambda route: route.fulfill(json=answer))
    write(page, "→ b")
    put_cursor(page, 1)
    put_cursor(page, 0)
    expect(page.locator("#byte-place")).to_have_text("byte 1 of 3")
    for step in range(place):
        page.locator("#byte-after").click()
        expect(page.locator("#byte-place")).to_have_text(f"byte {step + 2} of 3")
    cells = page.locator("#layers .likeliest li")
    shown = cells.evaluate_all("(cells) => cells.map((cell) => cell.querySelector('.meaning')?.textContent ?? null)")
    assert shown == meanings
    headings = {0: "the next", 1: "byte 2 of a character, after E2", 2: "byte 3 of a character, after E2 86"}
    expect(page.locator("#layers .head > p").first).to_contain_text(headings[place])


def test_forced_colours_keep_the_bits_as_bars(open_page):
    page = open_page(forced_colors="active")
    write(page, "The ladder leans on the wall, and zebra QXZ!")
    heights = page.evaluate(
        """() => [...document.querySelectorAll("#backdrop span[class*='b']")].map((run) => [
            Number(run.className.match(/b([0-9]+)/)[1]),
            parseFloat(getComputedStyle(run).backgroundSize.split(" ")[1]),
            getComputedStyle(run).backgroundImage])"""
    )
    assert len({height for _, height, _ in heights}) >= 3
    assert sorted(heights) == sorted(heights, key=lambda run: (run[0], run[1]))
    for (low, small, _), (high, large, _) in zip(sorted(heights), sorted(heights)[1:], strict=False):
        assert low <= high and small <= large
    assert all("gradient" in image for _, _, image in heights)


def test_forced_colour_bars_are_visible_behind_the_text(open_page):
    """Browsers draw an opaque background behind text in forced colours, which must not cover the bars."""
    page = open_page(forced_colors="active")
    write(page, "The ladder leans on the wall, and zebra QXZ!")
    page.locator("#text").blur()
    editor = page.locator("#editor")
    bars = editor.screenshot()
    page.evaluate("() => document.querySelectorAll('#backdrop span').forEach((run) => (run.style.background = 'none'))")
    assert editor.screenshot() != bars


def test_on_a_phone_the_layers_are_a_sheet_below_the_text(open_page):
    page = open_page(viewport={"width": 360, "height": 740})
    write(page, "The ladder leans on the wall.")
    put_cursor(page, 5)
    expect(page.locator("#place")).to_contain_text("Character 6")
    sheet, editor = page.locator("#layers").bounding_box(), page.locator("#editor").bounding_box()
    assert sheet["y"] + sheet["height"] == 740 and sheet["x"] == 0 and sheet["width"] == 360
    assert editor["y"] + editor["height"] <= sheet["y"]
    visible = page.locator("#layer-list > li:visible")
    expect(visible).to_have_count(1)
    toggle = page.get_by_role("button", name="All layers")
    toggle.click()
    expect(visible).to_have_count(3)
    expect(page.locator("#all-layers")).to_have_attribute("aria-expanded", "true")
    page.get_by_role("button", name="Top layer only").click()
    expect(visible).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
