"""Actions of a user on the explorer page, and what the page shows."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page, expect
else:
    try:
        from playwright.sync_api import Page, expect
    except ImportError:  # conftest.py skips all tests or fails them
        Page = expect = None

RUNS = """() => [...document.querySelectorAll("#backdrop > span")].flatMap((chunk) => chunk.childElementCount
    ? [...chunk.children].map((run) => [run.textContent.replaceAll(" \\n", "\\n"), run.className])
    : [[chunk.textContent, "unseen"]])"""
HEIGHTS = """() => [document.getElementById("text").scrollHeight, document.getElementById("backdrop").offsetHeight]"""


def wait_until_scored(page: Page) -> None:
    """Waits until the current text is scored."""
    expect(page.locator("#totals")).not_to_have_attribute("aria-busy", "true", timeout=20_000)


def write(page: Page, text: str) -> None:
    page.locator("#text").fill(text)
    wait_until_scored(page)


def put_cursor(page: Page, unit: int) -> None:
    page.locator("#text").focus()
    page.evaluate("(unit) => document.getElementById('text').setSelectionRange(unit, unit)", unit)


def runs(page: Page) -> list[tuple[str, set[str]]]:
    """Runs of equally styled text, with their classes."""
    return [(text, set(classes.split())) for text, classes in page.evaluate(RUNS)]


def classes(page: Page) -> list[set[str]]:
    """The classes of every character."""
    return [names for text, names in runs(page) for _ in text]


def levels(page: Page) -> list[str | None]:
    """The level of every character; None where it has no colour."""
    return [next((name for name in names if name[:1] == "b"), None) for names in classes(page)]


def continue_text(page: Page, **fields: Any) -> str:
    """Continues the text from the cursor, to the end; returns the status line."""
    for name, value in fields.items():
        field = page.locator(f"#{name}")
        if name == "draft":
            field.select_option(value)
        else:
            field.fill(str(value))
    page.locator("#continue").click()
    wait_until_idle(page)
    return page.locator("#speed").inner_text()


def wait_until_idle(page: Page) -> None:
    expect(page.locator("#stop")).to_be_disabled(timeout=30_000)
    wait_until_scored(page)


def shown_layers(page: Page) -> list[dict[str, Any]]:
    """The layers that the page shows, the top layer first."""
    return page.locator("#layers [data-layer]").evaluate_all(
        """(rows) => rows.map((row) => ({
            layer: Number(row.dataset.layer),
            text: row.textContent,
            heads: [...row.querySelectorAll(".head")].map((head) => ({
                target: Number(head.dataset.target),
                symbols: [...head.querySelectorAll(".likeliest .symbol")].map((symbol) => symbol.textContent),
                numbers: [...head.querySelectorAll(".likeliest .number")].map((number) => number.textContent),
                true: [...head.querySelectorAll(".likeliest .true .symbol")].map((symbol) => symbol.textContent),
                learned: head.querySelector(".learned").textContent,
            })),
        }))"""
    )
