"""Errors are shown, and text is never executed."""

import json

import pytest

from browser.chromium import running_server
from browser.explorer import continue_text, expect, put_cursor, wait_until_scored, write

pytestmark = pytest.mark.slow

LOAD_ERROR = "Failed to load resource"
EVIL = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>\"'&lt;b&gt;"


def error_body(message: str) -> dict:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}}


@pytest.mark.parametrize("status", [400, 500])
def test_an_error_is_shown_until_the_next_success(page, browser_log, status):
    browser_log.expected = LOAD_ERROR
    message = f"the text has too many characters ({status})"
    page.route("**/score", lambda route: route.fulfill(status=status, json=error_body(message)))
    page.locator("#text").fill("The wall")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text(message)
    expect(alert).to_be_visible()
    page.unroute("**/score")
    page.locator("#text").fill("The walls")
    wait_until_scored(page)
    expect(page.locator("#error")).to_be_hidden()


def test_error_without_json_is_shown(page, browser_log):
    browser_log.expected = LOAD_ERROR
    page.route("**/layers", lambda route: route.fulfill(status=502, body="<html>Bad gateway</html>"))
    page.locator("#text").fill("The wall")
    expect(page.get_by_role("alert")).to_contain_text("502")


def test_lost_server_is_reported_and_recovered(page, browser_log):
    browser_log.expected = LOAD_ERROR
    page.route("**/score", lambda route: route.abort("connectionreset"))
    page.locator("#text").fill("The wall")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    page.unroute("**/score")
    wait_until_scored(page)  # the page repeats the request
    expect(page.locator("#error")).to_be_hidden()
    assert float(page.locator("#total").inner_text()) > 0


def test_text_before_an_error_is_kept(page):
    event = {"choices": [{"index": 0, "text": "abc", "finish_reason": None, "charladder": {"drafted": "010"}}]}
    body = "".join(f"data: {json.dumps(data)}\n\n" for data in (event, error_body("the network broke")))
    page.route("**/v1/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    write(page, "The wall ")
    page.locator("#text").press("Control+End")
    assert "Broken off: 3 characters" in continue_text(page, length=5)
    expect(page.get_by_role("alert")).to_have_text("the network broke")
    assert page.locator("#text").input_value() == "The wall abc"
    page.unroute("**/v1/completions")
    continue_text(page, length=5)
    expect(page.locator("#error")).to_be_hidden()


def test_refused_continuation_does_not_change_the_text(page, browser_log):
    browser_log.expected = LOAD_ERROR
    page.route("**/v1/completions", lambda route: route.fulfill(status=400, json=error_body("no such drafter")))
    write(page, "The wall ")
    continue_text(page, length=5)
    expect(page.get_by_role("alert")).to_have_text("The server refused this (400): no such drafter.")
    assert page.locator("#text").input_value() == "The wall "


def test_a_number_out_of_range_is_not_sent(page, browser_log):
    page.locator("#temperature").fill("-1")
    page.locator("#continue").click()
    page.wait_for_timeout(200)
    assert not any("completions" in url for url in browser_log.requests)


def test_text_is_never_executed(page):
    """HTML in typed text, generated text and the candidates of a layer is shown as text."""
    event = {"choices": [{"index": 0, "text": EVIL, "finish_reason": "stop", "charladder": {"drafted": ""}}]}
    body = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    candidate = {"id": 1, "text": EVIL, "probability": 0.5}
    head = {
        "term": EVIL,
        "target": 1,
        "last_learned": None,
        "actual": candidate | {"rank": 1},
        "likeliest": [candidate] * 5,
    }
    answer = {"symbol": {"id": 1, "text": EVIL}, "bits": 1.0, "place": 0, "rows": [{"layer": 1, "heads": [head]}]}
    page.route("**/layers", lambda route: route.fulfill(json=answer))
    write(page, EVIL)
    page.locator("#text").press("Control+End")
    continue_text(page, length=5)
    put_cursor(page, 0)
    expect(page.locator("#layers .symbol").first).to_have_text(EVIL)
    assert page.locator("#text").input_value() == EVIL + EVIL
    assert page.locator("main script, img, main b").count() == 0
    assert page.evaluate("window.hacked") is None


def test_content_security_policy_blocks_scripts(page, browser_log):
    browser_log.expected = "Content Security Policy"
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hacked = 1";
            document.body.append(script);
        }"""
    )
    assert page.evaluate("window.hacked") is None
    assert browser_log.errors


def test_error_is_visible_beside_the_buttons(open_page, browser_log):
    browser_log.expected = LOAD_ERROR
    page = open_page(viewport={"width": 1280, "height": 720})
    page.route("**/v1/completions", lambda route: route.fulfill(status=503, json=error_body("the queue is full")))
    write(page, "The wall ")
    page.locator("#continue").click()
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("The server is busy with other requests. This page tries again in a moment.")
    expect(alert).to_be_in_viewport(ratio=1)
    button, line = page.locator("#continue").bounding_box(), alert.bounding_box()
    assert 0 <= line["y"] - (button["y"] + button["height"]) < 40
    assert page.evaluate("scrollY") == 0


def test_slow_server_is_reported(open_page):
    page = open_page()
    page.clock.install(time=0)
    page.reload()  # timers that were set before the clock was installed could not be cleared
    expect(page.locator("#continue")).to_be_enabled()
    expect(page.locator("#place")).to_contain_text("End of the text")  # the first requests are answered
    page.clock.pause_at(600_000)  # time advances only with run_for, so a slow machine does not matter
    requests = []
    page.route("**/score", lambda route: requests.append(route))
    page.locator("#text").fill("The wall")
    page.clock.run_for(1000)
    while not requests:
        page.wait_for_timeout(20)
    page.clock.run_for(9000)
    expect(page.locator("#error")).to_be_hidden()
    page.clock.run_for(2000)
    expect(page.get_by_role("alert")).to_have_text(
        "The server has not answered for 10 seconds. This page is still waiting."
    )
    requests[0].continue_()
    expect(page.locator("#error")).to_be_hidden()


def test_token_form(open_page, trained_run, browser_log):
    browser_log.expected = LOAD_ERROR
    with running_server(trained_run, token="secret") as url:
        page = open_page(url)
        expect(page.locator("#token")).to_be_focused()
        expect(page.locator("#error")).to_be_hidden()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("token")
        page.locator("#token").fill("secret")
        page.keyboard.press("Enter")
        expect(page.locator("#token-form")).to_be_hidden()
        expect(page.locator("#error")).to_be_hidden()
        write(page, "The wall")
        assert float(page.locator("#total").inner_text()) > 0
        assert "Written: 5 characters" in continue_text(page, length=5)
        stored = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie])")
        assert "secret" not in stored and "wrong" not in stored
