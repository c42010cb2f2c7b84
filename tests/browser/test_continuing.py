"""The network continues the text."""

import time

import pytest

from browser.chromium import MAX_CHARACTERS, fetch_json
from browser.explorer import (
    classes,
    continue_text,
    expect,
    levels,
    put_cursor,
    runs,
    shown_layers,
    wait_until_scored,
    write,
)

pytestmark = pytest.mark.slow

SENTENCE = "The ladder leans on the wall, "


def test_continuation_is_inserted_at_the_cursor_and_scored(page, server_url):
    write(page, SENTENCE + "and then it ends.")
    put_cursor(page, len(SENTENCE))
    status = continue_text(page, length=40, seed=5)
    assert "Written: 40 characters" in status
    assert "a second" in status
    assert "accepted per pass" in status
    text = page.locator("#text").input_value()
    assert text.startswith(SENTENCE)
    assert text.endswith("and then it ends.")
    assert "".join(run for run, _ in runs(page)) == text
    assert None not in levels(page)
    written = [place for place, names in enumerate(classes(page)) if "written" in names]
    assert written == list(range(len(SENTENCE), len(text) - len("and then it ends.")))
    score = fetch_json(f"{server_url}score", {"text": text})
    assert page.locator("#total").inner_text() == f"{score['total_bits']:,.1f}"
    # The cursor is after the last written character.
    assert page.evaluate("document.getElementById('text').selectionStart") == written[-1] + 1


def test_continuation_streams_and_can_be_stopped(page, server_url):
    write(page, SENTENCE)
    page.locator("#text").press("Control+End")
    page.locator("#length").fill(f"{MAX_CHARACTERS}")
    page.locator("#draft").select_option("none")
    page.locator("#continue").click()
    expect(page.locator("#continue")).to_be_disabled()
    while len("".join(run for run, _ in runs(page))) < len(SENTENCE) + 20:  # shown, and not yet in the text area
        page.wait_for_timeout(20)
    assert fetch_json(f"{server_url}health")["streams"]["active"] == 1
    page.locator("#stop").click()
    expect(page.locator("#speed")).to_contain_text("Stopped:")
    expect(page.locator("#continue")).to_be_enabled()
    deadline = time.monotonic() + 60
    while fetch_json(f"{server_url}health")["streams"]["active"]:
        assert time.monotonic() < deadline, "the server still writes after the stop"
        time.sleep(0.1)
    wait_until_scored(page)
    text = page.locator("#text").input_value()
    assert len(SENTENCE) < len(text) < MAX_CHARACTERS
    page.wait_for_timeout(300)
    assert page.locator("#text").input_value() == text
    expect(page.locator("#error")).to_be_hidden()


@pytest.mark.parametrize("draft", ["ngram", "targets"])
def test_accepted_drafts_are_marked(page, server_url, draft):
    assert draft in fetch_json(f"{server_url}about")["drafters"]
    write(page, "the wall and the wall and the wall and ")
    page.locator("#text").press("Control+End")
    status = continue_text(page, length=150, seed=1, temperature=0.2, draft=draft)
    assert f"({draft}" in status
    drafted = [place for place, names in enumerate(classes(page)) if "drafted" in names]
    assert drafted
    assert f"{len(drafted)} character" in status
    mark = page.locator("#backdrop .drafted").first
    assert mark.evaluate("(run) => getComputedStyle(run).textDecorationStyle") == "solid"
    # The marks keep their characters while other text is typed.
    page.locator("#text").press("Control+Home")
    page.keyboard.type("So ")
    wait_until_scored(page)
    assert [place for place, names in enumerate(classes(page)) if "drafted" in names] == [p + 3 for p in drafted]


def test_seed_repeats_a_text_and_it_can_be_taken_back(page):
    write(page, SENTENCE + "END")
    texts = []
    for seed in (3, 3, 4):
        put_cursor(page, len(SENTENCE))
        continue_text(page, length=30, seed=seed, draft="none")
        texts.append(page.locator("#text").input_value())
        page.locator("#back").click()
        wait_until_scored(page)
        assert page.locator("#text").input_value() == SENTENCE + "END"
        expect(page.locator("#back")).to_be_disabled()
        assert not any("written" in names for names in classes(page))
    assert texts[0] == texts[1] != texts[2]


def test_undo_history_survives_a_continuation(page):
    page.locator("#text").focus()
    page.keyboard.type("The ladder ")
    wait_until_scored(page)
    continue_text(page, length=20, seed=2)
    written = page.locator("#text").input_value()
    assert len(written) == len("The ladder ") + 20
    page.locator("#text").focus()
    page.keyboard.type("XY")
    states = []
    for _ in range(60):
        page.keyboard.press("Control+z")
        states.append(page.locator("#text").input_value())
        if not states[-1]:
            break
    assert written in states  # text typed after the continuation is undone separately
    assert "The ladder " in states  # the continuation is undone as one step
    assert states[-1] == ""  # text typed before the continuation is undone too
    expect(page.locator("#back")).to_be_disabled()
    while page.locator("#text").input_value() != written + "XY":
        page.keyboard.press("Control+Shift+z")
    wait_until_scored(page)
    assert "".join(run for run, _ in runs(page)) == written + "XY"


def test_continuation_can_be_taken_back_after_edits(page):
    write(page, SENTENCE + "END")
    put_cursor(page, len(SENTENCE))
    continue_text(page, length=30, seed=3)
    put_cursor(page, 4)
    page.keyboard.type("tall ")
    page.locator("#text").press("Control+End")
    page.keyboard.type("!")
    page.keyboard.press("Home")
    expect(page.locator("#back")).to_be_enabled()
    page.locator("#back").click()
    wait_until_scored(page)
    assert page.locator("#text").input_value() == "The tall ladder leans on the wall, END!"
    expect(page.locator("#back")).to_be_disabled()


def test_continuations_are_taken_back_one_by_one_the_newest_first(page):
    write(page, SENTENCE)
    texts = [SENTENCE]
    for seed in (1, 2):
        page.locator("#text").press("Control+End")
        continue_text(page, length=10, seed=seed)
        texts.append(page.locator("#text").input_value())
    for text in reversed(texts[:-1]):
        page.locator("#back").click()
        wait_until_scored(page)
        assert page.locator("#text").input_value() == text
    expect(page.locator("#back")).to_be_disabled()


def test_an_empty_text_can_be_continued(page):
    continue_text(page, length=20)
    assert page.locator("#text").input_value()
    expect(page.locator("#place")).to_contain_text("End of the text")
    assert shown_layers(page)
