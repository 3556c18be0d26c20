"""The report's page as Chromium shows it: nothing hostile runs, nothing is loaded, everything can be read."""

import json

import pytest
from selenium.webdriver.common.by import By

from tests.browser.conftest import SWEEP, hostile

WIDE, NARROW = 1600, 400
SCHEMES = ("light", "dark")
TEXTS = """
document.querySelectorAll("details").forEach(one => one.open = true);
const found = [], seen = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!walker.currentNode.data.trim() || seen.has(element) || !element.checkVisibility()) continue;
  seen.add(element);
  let behind = element;
  while (behind && getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const style = getComputedStyle(element);
  const back = behind ? getComputedStyle(behind).backgroundColor : "none";
  found.push([walker.currentNode.data.trim().slice(0, 40), style.color, back]);
}
return found;
"""


def show(browser, page, width=WIDE, height=900, scheme="light", media=""):
    """Load the page anew and return its messages and requests since."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get_log("browser"), browser.get_log("performance")
    browser.get(page.as_uri())
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in sent if one["method"] == "Network.requestWillBeSent"]
    return browser.get_log("browser"), asked


def luminance(colour):
    """Of `rgb(r, g, b)`, as WCAG 2 defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(text, back):
    light, dark = sorted((luminance(text), luminance(back)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_by_hand():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.005)  # the known near miss


def test_the_console_is_silent_and_nothing_is_loaded_from_elsewhere(browser, page):
    messages, asked = show(browser, page)
    assert messages == []
    assert asked and all(address == page.as_uri() or address.startswith("data:") for address in asked)


def test_whatever_was_written_to_do_harm_is_text(browser, page):
    show(browser, page)
    assert browser.title == SWEEP
    assert browser.execute_script("return document.scripts.length") == 0
    acting = """return [...document.querySelectorAll("*")].flatMap(one => [...one.attributes])
      .filter(one => one.name.startsWith("on") || /^\\s*javascript:/i.test(one.value)).map(one => one.name)"""
    assert browser.execute_script(acting) == []
    assert (
        browser.execute_script("return document.querySelectorAll('img:not(.figure), iframe, object, form').length") == 0
    )
    shown = browser.execute_script("return document.body.textContent")
    for where in ("arm", "completion", "alarm", "reconstruction", "question", "message", "output"):
        assert f"<script>document.title='{where}'</script>" in shown, where
    assert hostile("host") in shown and "\u202e" not in shown and "\x1b" not in shown


def test_every_picture_loads_and_has_a_text(browser, page):
    show(browser, page)
    pictures = browser.execute_script(
        "return [...document.images].map(one => [one.complete, one.naturalWidth, one.alt])"
    )
    assert len(pictures) > 10
    assert all(complete and width > 0 for complete, width, _ in pictures)
    assert all(len(text) > 20 for _, _, text in pictures)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [NARROW, WIDE])
def test_the_page_is_no_wider_than_the_window(browser, page, width, scheme):
    show(browser, page, width=width, scheme=scheme)
    wide = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    scrolled, seen = browser.execute_script(wide)
    assert width - 20 <= seen <= width and scrolled <= seen  # less a scroll bar
    # a table that is wider scrolls in its own box; nothing is cut off without one
    cut = """return [...document.querySelectorAll("main *")].filter(one => one.clientWidth && !one.closest(".wide")
      && one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).display !== "inline")
      .map(one => one.outerHTML.slice(0, 80))"""
    assert browser.execute_script(cut) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_has_the_contrast_that_wcag_aa_asks_for(browser, page, scheme):
    show(browser, page, scheme=scheme)
    texts = browser.execute_script(TEXTS)
    assert len(texts) > 200 and len({colour for _, colour, _ in texts}) > 2
    back = luminance(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert (back > 0.5) == (scheme == "light")
    faint = {(words, colour, behind) for words, colour, behind in texts if contrast(colour, behind) < 4.5}
    assert faint == set()


def test_every_link_leads_somewhere_and_every_name_is_given_once(browser, page):
    show(browser, page)
    names = browser.execute_script("return [...document.querySelectorAll('[id]')].map(one => one.id)")
    links = [one.get_dom_attribute("href") for one in browser.find_elements(By.CSS_SELECTOR, "a[href]")]
    assert len(links) > 10 and all(link.startswith("#") for link in links)
    assert {link.removeprefix("#") for link in links} <= set(names)
    assert len(names) == len(set(names))


def test_the_first_screen_has_the_verdict_and_the_tops_of_two_figures(browser, page):
    show(browser, page, width=WIDE, height=900)
    places = """return [...document.querySelectorAll(".verdicts table, .pair img")].slice(0, 3)
      .map(one => one.getBoundingClientRect().top)"""
    tops = browser.execute_script(places)
    assert len(tops) == 3 and all(0 < top < 900 for top in tops), tops


def test_on_paper_there_is_no_navigation_no_code_and_no_box_to_scroll(browser, page):
    show(browser, page, width=794, media="print", scheme="dark")
    hidden = "return [...document.querySelectorAll('nav, details.code')].filter(one => one.checkVisibility()).length"
    assert browser.execute_script(hidden) == 0
    boxes = "return [...document.querySelectorAll('.wide')].map(one => getComputedStyle(one).overflowX)"
    assert set(browser.execute_script(boxes)) == {"visible"}
    assert contrast(*browser.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )) == pytest.approx(21)  # black on white, whatever the screen's scheme is  # fmt: skip
