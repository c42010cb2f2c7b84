"""Accessibility: keyboard, phone, colour schemes and screen readers."""

import pytest

from browser.explorer import expect, put_cursor, wait_until_idle, wait_until_scored, write

pytestmark = pytest.mark.slow

SENTENCE = "The ladder leans on the wall → and every layer of it is asked what it sees."
CONTRASTS = """() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const light = (colour) => {
        const [r, g, b] = parts(colour).map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ink = light(getComputedStyle(document.getElementById("text")).color);
    return [...document.querySelectorAll("#swatches li")].map((swatch) => {
        const ground = light(getComputedStyle(swatch).backgroundColor);
        return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    });
}"""


def focused(page) -> str:
    return page.evaluate("document.activeElement.id")


def test_keyboard_only(page):
    page.keyboard.press("Tab")
    assert focused(page) == "text"
    page.keyboard.type("The wall → ")
    wait_until_scored(page)
    visited = []
    while focused(page) != "draft":
        page.keyboard.press("Tab")
        visited.append(focused(page))
    assert visited == ["continue", "", "", "", "temperature", "length", "seed", "draft"]  # three examples
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("20000")
    page.keyboard.press("Enter")  # in a field: continues
    expect(page.locator("#stop")).to_be_enabled()
    page.keyboard.press("Escape")
    wait_until_idle(page)
    page.locator("#length").fill("10")
    page.locator("#continue").focus()
    page.keyboard.press("Enter")
    wait_until_idle(page)
    assert focused(page) == "continue"
    page.keyboard.press("Tab")
    assert focused(page) == "back"
    page.keyboard.press("Enter")
    wait_until_scored(page)
    page.locator("#text").focus()
    page.keyboard.press("Control+Enter")
    wait_until_idle(page)
    assert focused(page) == "text"
    page.keyboard.press("Control+Home")
    for _ in range(9):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#byte-place")).to_have_text("byte 1 of 3")
    while focused(page) != "byte-before":
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    expect(page.locator("#byte-place")).to_have_text("byte 3 of 3")
    assert focused(page) == "byte-after"


def test_focus_moves_between_continue_and_stop(page):
    write(page, SENTENCE)
    page.locator("#length").fill("20000")
    page.locator("#continue").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#stop")).to_be_focused()
    page.keyboard.press("Enter")
    wait_until_idle(page)
    assert focused(page) == "continue"


def test_phone_layout_scrolls_vertically_only(open_page):
    page = open_page(viewport={"width": 360, "height": 740})
    write(page, SENTENCE + " " + "x" * 300)
    put_cursor(page, SENTENCE.index("→"))
    expect(page.locator("#byte-place")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.locator("#editor").evaluate("(editor) => editor.scrollWidth - editor.clientWidth") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_on_every_colour(open_page, scheme):
    page = open_page(color_scheme=scheme)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) == 12
    assert min(contrasts) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme):
    from axe_playwright_python import sync_playwright as axe

    page = open_page(color_scheme=scheme, bypass_csp=True)  # axe is a script that is inserted into the page
    write(page, SENTENCE)
    put_cursor(page, SENTENCE.index("→"))
    expect(page.locator("#byte-place")).to_be_visible()
    page.locator("#continue").click()
    wait_until_idle(page)
    page.wait_for_timeout(500)
    violations = axe.Axe().run(page).response["violations"]
    assert [
        (rule["id"], [node["html"] for node in rule["nodes"]]) for rule in violations if rule["impact"] != "minor"
    ] == []


@pytest.mark.parametrize(("wish", "seconds"), [("reduce", "0s"), ("no-preference", "0.12s")])
def test_reduced_motion(open_page, wish, seconds):
    page = open_page(reduced_motion=wish)
    write(page, SENTENCE)
    bar = page.locator("#layers .bar").first
    expect(bar).to_be_attached()
    assert bar.evaluate("(bar) => getComputedStyle(bar).transitionDuration") == seconds
