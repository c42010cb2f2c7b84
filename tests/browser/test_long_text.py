"""Texts of 20,000 characters: typing costs as much as in a short text."""

import pytest

from browser.explorer import HEIGHTS, expect, put_cursor, wait_until_scored, write
from helpers import PROSE

pytestmark = pytest.mark.slow

NUM_CHARACTERS = 20_000
COUNT = """() => {
    window.added = 0;
    new MutationObserver((changes) => {
        for (const change of changes) if (change.target.id === "backdrop") window.added += change.addedNodes.length;
    }).observe(document.getElementById("backdrop"), {childList: true, subtree: true});
}"""


@pytest.mark.parametrize("separator", ["\n", " "], ids=["lines", "one line"])
def test_typing_in_the_middle_of_a_long_text(page, separator):
    text = (PROSE.replace(". ", "." + separator) * 120)[:NUM_CHARACTERS]
    write(page, text)
    chunks = page.locator("#backdrop > span").count()
    assert chunks >= NUM_CHARACTERS / 400
    # Only visible and nearby text is coloured.
    assert page.locator("#backdrop > span > span").count() < 4000
    put_cursor(page, NUM_CHARACTERS // 2)
    page.wait_for_timeout(300)
    page.evaluate(COUNT)
    bodies = []
    page.on("request", lambda request: "score" in request.url and bodies.append(request.post_data_json))
    page.keyboard.type("and so on, ", delay=30)
    # A key replaces one chunk, by two if it has become too long.
    assert page.evaluate("window.added") <= 2 * len("and so on, ")
    wait_until_scored(page)
    assert all(body["begin"] == NUM_CHARACTERS // 2 for body in bodies)
    foreground, background = page.evaluate(HEIGHTS)
    assert foreground == background
    assert page.locator("#backdrop .here").count() == 1


def test_text_is_coloured_when_scrolled_into_view(page):
    write(page, (PROSE * 120)[:NUM_CHARACTERS])
    last = page.locator("#backdrop > span").last
    assert last.locator("span").count() == 0
    page.locator("#editor").evaluate("(editor) => editor.scrollTo(0, editor.scrollHeight)")
    expect(last.locator("span")).not_to_have_count(0)
    expect(page.locator("#backdrop > span").first.locator("span")).to_have_count(0)
