#!/usr/bin/env python3
"""The node's page in a real browser: used with the keyboard alone, on a desk and on a phone, and through the death of
the node. Chromium is headless and driven by its own driver.

    Interop/browser.py [--screenshot FILE]    the page with a few events, as a picture
"""

import argparse
import json
import shutil
import sys
import urllib.request

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from node import Failure, Node, check, main

PATIENCE = 90
WIDE = (1280, 860)
PHONE = (360, 740)


def open_browser():
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    check(all(programs.values()), "Chromium and its driver are needed: scripts/packages.sh interop")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    # Containers have no user namespaces for the sandbox and a small /dev/shm.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--lang=en"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for attempt in range(3):
        try:
            return webdriver.Chrome(options=options, service=webdriver.ChromeService(programs["chromedriver"]))
        except WebDriverException:
            # On a busy machine Chromium may not come up in the driver's own time.
            if attempt == 2:
                raise


class Page:
    """The page in a browser window of its own size."""

    def __init__(self, browser, node):
        self.browser = browser
        self.node = node
        self.messages = []
        self.checks = 0

    @property
    def address(self):
        return f"http://127.0.0.1:{self.node.http_port}/"

    def resize(self, size, is_phone=False):
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": is_phone}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, query=""):
        self.browser.get(self.address + query)
        self.until(lambda: self.state() == "live", "the view is live")

    def holds(self, condition, what):
        check(condition, what)
        self.checks += 1

    def until(self, condition, what):
        try:
            WebDriverWait(self.browser, PATIENCE, poll_frequency=0.05).until(lambda _: condition())
        except Exception as error:
            raise Failure(f"not in {PATIENCE} s: {what}; the page says {self.text('main')!r}") from error
        self.checks += 1

    def text(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector).text

    def state(self):
        return self.browser.find_element(By.ID, "state").get_attribute("data-state")

    def rows(self):
        """What the view shows, newest first: pairs of topic and payload; marks are pairs with nothing."""
        return self.browser.execute_script(
            "return [...document.querySelectorAll('#rows > li')].map(row => row.matches('.row')"
            " ? [row.querySelector('.topic').textContent, row.querySelector('.payload').textContent]"
            " : [null, row.firstChild.textContent])"
        )

    def keys(self, *keys):
        """Types into whatever has the focus."""
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def focus(self):
        return self.browser.switch_to.active_element.get_attribute("id")

    def tab_to(self, wanted):
        """Presses Tab until an element has the focus, and sees that the focus is visible all the way."""
        for _ in range(40):
            if self.focus() == wanted:
                return
            webdriver.ActionChains(self.browser).send_keys(Keys.TAB).perform()
            visible = self.browser.execute_script(
                "const e = document.activeElement, s = getComputedStyle(e);"
                "return e === document.body || (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2)"
            )
            self.holds(visible, f"the focus is visible on {self.focus() or 'an element'}")
        raise Failure(f"Tab does not lead to {wanted}")

    def replace(self, text):
        """Replaces what is in the field that has the focus."""
        self.keys(Keys.CONTROL + "a", text)

    def publish(self, topic, payload, **fields):
        """Publishes as any other client does."""
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        request = urllib.request.Request(
            f"{self.address}TOPIC/{topic}", data=payload, headers=headers, method="POST"
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            check(answer.status == 202, f"publishing answers {answer.status}")
            return json.load(answer)

    def collect_messages(self):
        self.messages += self.browser.get_log("browser")


def keyboard_only(page):
    page.open()
    page.until(lambda: page.text("h1") == "interop", "the node's name")
    page.holds(page.browser.title.startswith("interop"), "the title names the node")
    page.tab_to("topic")
    page.replace("plant/käse #1/temp")
    page.tab_to("publish-button")
    page.keys(Keys.ENTER)
    page.until(lambda: "Not published" in page.text("#result"), "a refusal is shown")
    page.holds(len(page.text("#result")) > len("Not published. ") + 10, "with its reason")

    page.tab_to("topic")
    page.replace("plant/käse 1/%temp?")
    page.tab_to("payload")
    page.replace('{"celsius": 4.5, "ort": "Straße"}')
    page.tab_to("content-type")
    page.replace("application/json")
    page.tab_to("guaranteed")
    page.keys(Keys.SPACE)
    page.tab_to("publish-button")
    page.keys(Keys.ENTER)
    page.until(lambda: "Published." in page.text("#result"), "published")
    page.holds("1 subscription" in page.text("#result"), f"one match: {page.text('#result')}")
    page.holds(page.focus() == "publish-button", "the focus stays")
    page.until(lambda: page.rows(), "the event is in the view")
    page.holds(
        page.rows() == [["plant/käse 1/%temp?", '{"celsius": 4.5, "ort": "Straße"}']], f"the event: {page.rows()}"
    )
    page.holds("application/json" in page.text("#rows"), "its content type")

    # Ctrl+Enter from the payload; held back while paused.
    page.tab_to("pause")
    page.keys(Keys.SPACE)
    page.publish("plant/held", b"back")
    page.until(lambda: "1 waits" in page.text("#count"), "it waits")
    page.holds(len(page.rows()) == 1, "nothing is drawn in a pause")
    page.keys(Keys.SPACE)
    page.until(lambda: page.rows()[0] == ["plant/held", "back"], "what was held back")
    page.tab_to("clear")
    page.keys(Keys.ENTER)
    page.until(lambda: page.rows() == [], "cleared")


def filters(page):
    page.tab_to("filter")
    page.replace("a/#/b")
    page.keys(Keys.ENTER)
    page.until(lambda: page.state() == "refused", "a wrong filter is refused")
    page.holds(len(page.text("#state-text")) > len("refused: ") + 5, f"with its reason: {page.text('#state-text')}")
    page.replace("other/+")
    page.keys(Keys.ENTER)
    page.until(lambda: page.state() == "live", "another filter")
    page.publish("plant/x", b"not this")
    page.publish("other/bytes", bytes(range(250, 256)), Content_Type="application/octet-stream")
    page.until(lambda: page.rows(), "an event of the other filter")
    page.holds(page.rows() == [["other/bytes", "fa fb fc fd  fe ff"]], f"bytes in hexadecimal: {page.rows()}")
    page.tab_to("bytes")
    page.keys("base64")
    page.until(lambda: page.rows() == [["other/bytes", "+vv8/f7/"]], "bytes in Base64")
    page.holds("filter=other%2F%2B" in page.browser.current_url, "the filter is in the address")
    page.tab_to("filter")
    page.keys(Keys.ENTER)
    page.until(lambda: page.state() == "stopped", "stopped by the same button")


def many(page):
    """More than the view keeps, and markup that must stay text."""
    page.open("?filter=many/%23")
    evil = "<img src=x onerror=\"document.title='owned'\">"
    page.publish("many/markup", evil.encode(), Content_Type="text/html")
    page.until(lambda: page.rows(), "markup has come")
    page.holds(page.rows()[0][1] == evil, "markup stays text")
    for number in range(600):
        page.publish("many/x", str(number).encode())
    page.until(lambda: page.rows()[0] == ["many/x", "599"], "the last of many")
    page.holds(len(page.rows()) == 500, f"500 rows are kept, not {len(page.rows())}")


def phone(page):
    page.resize(PHONE, is_phone=True)
    page.open("?filter=phone/%23")
    page.publish("phone/" + "a-very-long-level" * 12, b"0123456789" * 30, Content_Type="text/plain")
    page.publish("phone/bytes", bytes(range(256)), Apus_Property_note="x" * 200)
    page.until(lambda: len(page.rows()) == 2, "the events are there")
    wide = page.browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => e.getClientRects().length > 0"
        " && !e.matches('.skip, .hidden') && (e.getBoundingClientRect().right > innerWidth + 0.5"
        " || e.getBoundingClientRect().left < -0.5)).map(e => e.tagName + '.' + e.className)"
    )
    page.holds(wide == [], f"nothing is wider than a phone: {wide}")
    total = page.browser.execute_script("return document.documentElement.scrollWidth")
    page.holds(total <= PHONE[0], f"nothing scrolls sideways: {total}")
    small = page.browser.execute_script(
        "return [...document.querySelectorAll('button, select, input:not([type=checkbox]), .choice')]"
        ".filter(e => e.getBoundingClientRect().height < 40).map(e => e.id || e.className)"
    )
    page.holds(small == [], f"everything can be touched: {small}")
    page.resize(WIDE)


def node_dies(page):
    """Killed, and back on the same port: the view finds it again and receives."""
    page.open("?filter=alive/%23")
    page.publish("alive/x", b"before")
    page.until(lambda: page.rows() == [["alive/x", "before"]], "an event before")
    page.collect_messages()
    page.node.kill()
    page.until(lambda: page.state() == "lost", "the view says that the node has gone")
    page.node.start()
    page.until(lambda: page.state() == "live", "the view is live again")
    # What the browser says about a node that is not there is no mistake of the page.
    page.browser.get_log("browser")
    page.publish("alive/x", b"after")
    page.until(lambda: page.rows()[0] == ["alive/x", "after"], "an event afterwards")
    marks = [text for topic, text in page.rows() if topic is None]
    page.holds(any("missing" in text or "anew" in text for text in marks), f"the gap is told: {marks}")


def screenshot(page, path):
    page.open()
    page.publish("plant/press-4/state", b'{"state":"running","operator":"olivia"}', Content_Type="application/json",
                 Apus_Delivery_Mode="guaranteed", Apus_Property_line="7")
    page.publish("plant/camera-2/frame", bytes(range(208, 240)), Content_Type="application/octet-stream")
    page.publish("plant/press-4/temp", b"71.4", Content_Type="text/plain")
    page.browser.find_element(By.ID, "publish-button").click()
    page.until(lambda: len(page.rows()) == 4, "four events")
    # The colour of new rows has faded.
    page.until(lambda: page.browser.execute_script("return document.getAnimations().length") == 0, "all is still")
    page.browser.save_screenshot(path)


def run(arguments):
    with Node(http=True) as node:
        browser = open_browser()
        try:
            page = Page(browser, node)
            page.resize(WIDE)
            for part in (keyboard_only, filters, many, phone, node_dies):
                part(page)
            if arguments.screenshot:
                screenshot(page, arguments.screenshot)
            page.collect_messages()
            # Refused requests are asked for above; everything else, first of all what the Content-Security-Policy
            # forbids, is a mistake.
            bad = [m["message"] for m in page.messages
                   if m["level"] in ("SEVERE", "WARNING") and "status of 400" not in m["message"]]
            page.holds(bad == [], f"the browser's console: {bad}")
            return f"{page.checks} checks"
        finally:
            browser.quit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--screenshot", metavar="FILE")
    sys.exit(main(run, parser.parse_args()))
