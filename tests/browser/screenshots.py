"""Pictures of the explorer for the documentation: python -m tests.browser.screenshots RUN [FOLDER]"""

import sys
from pathlib import Path

from tests.browser.chromium import missing_requirement, running_browser, running_server

TEXT = "The ladder leans on the wall, and every layer of it is asked what it sees.\nThe lowest "
PICTURES = {
    "light": {"viewport": {"width": 1200, "height": 940}},
    "dark": {"viewport": {"width": 1200, "height": 940}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}},
    "forced-colors": {"viewport": {"width": 1200, "height": 940}, "forced_colors": "active"},
}


def draw(run: Path, folder: Path) -> None:
    from PIL import Image
    from tests.browser.explorer import continue_text, put_cursor, write

    with running_server(run) as url, running_browser() as browser:
        for name, options in PICTURES.items():
            context = browser.new_context(**options)
            page = context.new_page()
            page.goto(url)
            write(page, TEXT)
            page.locator("#text").press("Control+End")
            continue_text(page, length=160, seed=1)
            put_cursor(page, TEXT.index("wall"))
            page.wait_for_timeout(1500)
            page.evaluate("() => scrollTo(0, 0)")
            path = folder / f"explorer-{name}.png"
            page.screenshot(path=path)
            context.close()
            Image.open(path).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    if len(sys.argv) < 2 or missing_requirement():
        sys.exit(missing_requirement() or __doc__)
    draw(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "docs/pictures"))
