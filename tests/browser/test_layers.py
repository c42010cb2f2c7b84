"""The layers at the cursor."""

import pytest

from browser.chromium import fetch_json
from browser.explorer import classes, expect, put_cursor, shown_layers, write

pytestmark = pytest.mark.slow

SENTENCE = "The ladder leans on the wall."


def test_a_row_for_every_layer_and_five_characters_in_every_head(page, server_url):
    write(page, SENTENCE)
    put_cursor(page, 5)
    expect(page.locator("#place")).to_contain_text("Character 6, “a”")
    answer = fetch_json(f"{server_url}layers", {"text": SENTENCE, "place": 5})
    shown = shown_layers(page)
    assert [row["layer"] for row in shown] == list(range(fetch_json(f"{server_url}about")["layers"], 0, -1))
    for row, expected in zip(shown, reversed(answer["rows"]), strict=True):
        assert [head["target"] for head in row["heads"]] == [head["target"] for head in expected["heads"]]
        for head, truth in zip(row["heads"], expected["heads"], strict=True):
            assert len(head["symbols"]) == 5
            actual = [candidate["text"] for candidate in truth["likeliest"] if candidate["id"] == truth["actual"]["id"]]
            assert [symbol.replace("␣", " ") for symbol in head["true"]] == actual
            first = truth["likeliest"][0]["probability"] * 100
            assert head["numbers"][0] == ("<0.1%" if first < 0.1 else f"{first:.1f}%")
    assert shown[0]["heads"][0]["learned"] == "learned to the end"
    expect(page.locator("#place")).to_contain_text(f"{answer['bits']:.2f} bits")


def test_the_first_guess_has_rank_1(page, server_url):
    write(page, SENTENCE)
    for place in range(1, len(SENTENCE)):
        answer = fetch_json(f"{server_url}layers", {"text": SENTENCE, "place": place})
        top = answer["rows"][-1]["heads"][0]
        if top["likeliest"][0]["id"] == top["actual"]["id"]:
            break
    else:
        raise AssertionError("no character of the training text has rank 1")
    put_cursor(page, place)
    expect(page.locator("#place")).to_contain_text(f"the top layer gave it {top['actual']['probability']:.1%}, 1st")


def test_first_character_has_no_predictions(page):
    write(page, SENTENCE)
    put_cursor(page, 0)
    expect(page.locator("#place")).to_contain_text(
        "Character 1, “T”: 8.00 bits. The first character has no text before it"
    )
    assert all("no trained head" not in row["text"] for row in shown_layers(page))


def test_a_click_and_the_arrow_keys_choose_the_character(page):
    write(page, SENTENCE)
    page.locator("#text").click(position={"x": 14, "y": 20})
    expect(page.locator("#place")).to_contain_text("Character 1, “T”")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_contain_text("Character 3, “e”")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#place")).to_contain_text("Character 4, space")
    assert [place for place, names in enumerate(classes(page)) if "here" in names] == [3]


def test_prediction_after_the_last_character(page):
    write(page, SENTENCE)
    page.locator("#text").press("Control+End")
    expect(page.locator("#place")).to_contain_text("End of the text: the top layer expects")
    assert shown_layers(page)[0]["heads"][0]["true"] == []
    page.locator("#text").press("ArrowLeft")
    expect(page.locator("#place")).to_contain_text("Character 29, “.”")


def test_buttons_step_through_the_bytes_of_a_character(page):
    write(page, "a → b")
    put_cursor(page, 0)
    expect(page.locator("#place")).to_contain_text("Character 1, “a”")
    expect(page.locator("#bytes")).to_be_hidden()
    put_cursor(page, 2)
    expect(page.locator("#place")).to_contain_text("Character 3, “→”, part 1 of 3 (\\xe2)")
    expect(page.locator("#byte-place")).to_have_text("byte 1 of 3")
    expect(page.locator("#byte-before")).to_have_attribute("aria-disabled", "true")
    for part, name in ((2, "\\x86"), (3, "\\x92")):
        page.locator("#byte-after").click()
        expect(page.locator("#place")).to_contain_text(f"part {part} of 3 ({name})")
    page.locator("#byte-after").dispatch_event("click")  # has no effect
    page.locator("#byte-before").click()
    expect(page.locator("#place")).to_contain_text("part 2 of 3")
    page.locator("#text").press("ArrowRight")
    expect(page.locator("#place")).to_contain_text("Character 4, space")
    expect(page.locator("#bytes")).to_be_hidden()


def test_a_layer_without_a_head_says_so(page):
    head = {"term": "main", "target": 1, "last_learned": None, "actual": None}
    head |= {"likeliest": [{"id": id, "text": chr(id), "probability": 0.1} for id in (9, 10, 32, 0, 127)]}
    rows = [{"layer": 1, "heads": []}, {"layer": 2, "heads": [head]}]
    page.route("**/layers", lambda route: route.fulfill(json={"symbol": None, "bits": None, "place": 0, "rows": rows}))
    page.locator("#text").fill("a")
    expect(page.locator("#layers [data-layer='1']")).to_contain_text("This layer has no trained head")
    # Blanks and control characters are shown as symbols.
    assert shown_layers(page)[0]["heads"][0]["symbols"] == ["⇥", "↵", "␣", "␀", "␡"]


def test_layers_are_not_announced_at_every_key(page):
    page.evaluate(
        """() => {
            window.changes = 0;
            const count = (records) => (window.changes += records.length);
            new MutationObserver(count).observe(document.getElementById("place"), {childList: true});
        }"""
    )
    page.locator("#text").press_sequentially(SENTENCE, delay=60)
    expect(page.locator("#place")).to_contain_text("End of the text")
    page.wait_for_timeout(700)
    assert page.evaluate("window.changes") <= 2
    assert page.locator("#place").get_attribute("aria-live") == "polite"
