"""The dashboard in a real browser, beside real processes: what it shows, and what it does not let happen."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from scripts.browser import Browser
from tests.conftest import Until
from tests.dashboard.conftest import TOKEN, Served, Worker

NewWorker = Callable[[], Worker]
Serve = Callable[..., Served]

#: What would run, or change the page, if anything were not escaped; or turn what is read.
BAD = [
    "<script>window.bad = 1</script>",
    "<img src=x onerror='window.bad = 2'>",
    '"><svg onload=window.bad=3>',
    "'><a href=javascript:window.bad=4 autofocus onfocus=window.bad=5>x</a>",
    "</title></script></textarea><script>window.bad = 6</script>",
    "\u202eright to left",
    "__proto__",
]


def row(browser: Browser, section: str, name: str) -> list[str]:
    """Return the texts of the row of a table whose head has a text."""
    found: list[str] = browser.run(
        f"[...document.querySelectorAll('#{section} tbody tr')].filter((row) => "
        f"row.querySelector('th').textContent.includes({json.dumps(name)})).flatMap((row) => "
        "[...row.children].map((cell) => cell.textContent))"
    )
    return [each.replace("\u202f", " ") for each in found]


def tile(browser: Browser, name: str) -> str:
    """Return the text of a figure of the strip."""
    found: str = browser.run(
        "[...document.querySelectorAll('#figures > div')].find((each) => each.querySelector('dt').textContent === "
        f"{json.dumps(name)}).querySelector('dd').textContent"
    )
    return found.replace("\u202f", " ")


def test_what_is_shown_is_what_the_scoreboard_says_and_goes_on(
    worker: NewWorker, serve: Serve, browser: Browser
) -> None:
    first, second = worker(), worker()
    first("[price(sku) for _ in range(10) for sku in range(5)] and None")
    second("[price(sku) for _ in range(4) for sku in range(5)] and None")
    served = serve()
    browser.open(served.address)
    browser.until_true("document.querySelector('#figures').textContent.includes('70 in all')")
    stats = second("(lambda space: (space.reads, space.hit_ratio, space.counters['loads'], space.timed_loads))"
                   "(cache.group_stats().spaces['shop.prices:price'])")  # fmt: skip
    assert stats == (70, 65 / 70, 5, 5)
    cells = row(browser, "functions", "shop.prices:price")
    assert (cells[2], cells[7]) == ("92.9 %", "5")
    assert row(browser, "loaders", "shop.prices:price")[4] == "5"
    assert tile(browser, "Processes").startswith("2")
    assert {str(first.pid), str(second.pid)} == {*browser.run(
        "[...document.querySelectorAll('.seats b')].map((each) => each.textContent)"
    )}  # fmt: skip
    info = first("[(each.name, each.size) for each in cache.entries()]")
    browser.until(lambda: row(browser, "memory", "shop.prices:price")[4:] == ["5"])
    taken = row(browser, "memory", "shop.prices:price")
    assert taken[1] == f"{sum(size for _, size in info) / 1024:.1f} KiB"

    first("price.invalidate(3) and None")
    second("price(3) and None")
    browser.until_true("document.querySelector('#figures').textContent.includes('71 in all')")
    browser.until(lambda: row(browser, "functions", "shop.prices:price")[7] == "6")
    second.kill()
    browser.until(lambda: tile(browser, "Processes").startswith("1"))
    browser.until_true("document.querySelectorAll('.seats .ended').length === 1")
    browser.until_true("document.querySelector('#events').textContent.includes('shop.prices:price(3)')")
    assert browser.complaints() == []


def test_curves_are_drawn_of_what_happens(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    one = worker()
    served = serve()
    browser.open(served.address)

    def is_drawn() -> bool:
        one("price('tea') and None")
        return bool(
            browser.run("document.querySelector('.chart.reads, .chart.ratio .line').getAttribute('d').length > 20")
        )

    browser.until(is_drawn)
    assert "Hit ratio over time: now" in browser.run("document.querySelector('.chart.ratio').ariaLabel")
    browser.open(served.address + "space?of=shop.prices%3Aprice")
    browser.until_true("document.querySelectorAll('figure .line[d^=M]').length === 4")
    assert browser.complaints() == []


def test_names_that_are_an_attackers_do_not_run(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    one = worker()
    for bad in BAD:
        one(f"cache.set({bad!r}, 1, tags=({bad!r},)) and None")
        one(f"cache.namespace({bad!r}).set('k', 1) and [cache.namespace({bad!r}).get('k') for _ in range(50)] and None")
        one(f"cache.invalidate_tags({bad!r} + 'x') and None")
    served = serve("--name", "<b>")
    browser.open(served.address)

    def is_hot() -> bool:
        one(f"[cache.get(bad) for _ in range(50) for bad in {BAD!r}] and None")
        return "onerror" in browser.text("#hot")

    browser.until(is_hot)
    browser.until_true("document.querySelector('#functions').textContent.includes('onerror')")
    browser.until_true("document.querySelector('#events').textContent.includes('onerror')")
    assert r"\u202eright" in browser.text("#events")
    links = browser.run("[...document.querySelectorAll('main a')].map((each) => each.href)")
    assert len(links) > 20
    assert all(link.startswith(served.address) for link in links)
    pages = [*dict.fromkeys(links), served.address + "keys?like=%3Cscript%3E&in=%22%3E%3Csvg%20onload=window.bad=7%3E"]
    for page in [served.address, *pages]:
        browser.open(page)
        assert browser.run("window.bad ?? null") is None, page
        assert (
            browser.run("document.querySelectorAll('main script, main img, main [onload], main [onfocus]').length") == 0
        )
        assert browser.complaints() == [], page


def test_the_policy_lets_no_other_script_run(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    worker()
    browser.open(serve().address)
    browser.run(
        "{const script = document.createElement('script'); script.textContent = 'window.bad = 1';"
        "document.body.append(script); document.body.setAttribute('style', 'color: red');"
        "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.bad = 2\">')}"
    )
    browser.until(lambda: len(browser.complaints()) >= 3)
    assert all("Content Security Policy" in each or "404" in each for each in browser.complaints()), (
        browser.complaints()
    )
    assert browser.run("window.bad ?? null") is None
    fetched = browser.run("fetch('https://example.org/').then(() => 'fetched', () => 'refused')")
    assert fetched == "refused"


def focused(browser: Browser) -> str:
    text: str = browser.run("document.activeElement.textContent.trim() || document.activeElement.name || ''")
    return text


def test_it_can_be_used_by_the_keyboard_alone(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    worker()("[price('tea') for _ in range(9)] and None")
    browser.open(serve().address)
    browser.until_true("document.querySelector('#functions a') !== null")
    browser.press("Tab")
    assert focused(browser) == "Skip to the figures"
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "main"
    browser.open(browser.run("location.href.split('#')[0]"))
    seen = []
    for _ in range(7):
        browser.press("Tab")
        seen.append(focused(browser))
    assert seen == ["Skip to the figures", "colocache", "Overview", "Keys", "Live", seen[5], "shop.prices:price"]
    # Where the keyboard is stays where it is while the page goes on.
    at = browser.run("window.before = document.querySelector('#since').textContent; document.activeElement.href")
    browser.until_true("document.querySelector('#since').textContent !== window.before")
    assert browser.run("document.activeElement.href") == at
    browser.press("p", "p")
    browser.until(lambda: browser.text("#pause") == "Paused")
    assert browser.run("document.getElementById('pause').ariaPressed") == "true"
    browser.press("Enter")
    browser.until_true("location.pathname === '/space' && document.readyState === 'complete'")
    assert browser.text("h1") == "shop.prices:price"


def test_a_phone_scrolls_in_one_direction_only(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    one = worker()
    one("[price('tea') for _ in range(9)] and None")
    long = "x" * 150
    one(f"cache.set({long!r}, 1, tags=({'y' * 100!r},)) and None")

    def is_hot() -> bool:
        one(f"[cache.get({long!r}) for _ in range(99)] and None")
        return "xxx" in browser.text("#hot")

    served = serve()
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.size(360, 740, is_phone=True)
        browser.open(served.address)
        browser.until(is_hot)
        links = "[...document.querySelectorAll('#hot a')]"
        key = browser.run(f"{links}.find((each) => each.textContent.includes('xxx')).href")
        for page in (served.address, served.address + "space?of=shop.prices%3Aprice", served.address + "keys", key):
            browser.open(page)
            assert browser.run("[document.documentElement.scrollWidth, innerWidth]") == [360, 360], page


CONTRAST = """(() => {
  const luminance = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255);
    const [red, green, blue] = parts.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const paper = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if (!/, 0(\\.\\d+)?\\)$/.test(colour)) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((each) => each.nodeType === 3 && each.textContent.trim());
    if (!own || element.closest("svg, noscript, script")) continue;
    const [one, two] = [getComputedStyle(element).color, paper(element)].map(luminance).sort((a, b) => b - a);
    const ratio = (one + 0.05) / (two + 0.05);
    if (ratio < 4.5) poor.push(`${element.tagName} ${element.textContent.slice(0, 40)}: ${ratio.toFixed(2)}`);
  }
  return [getComputedStyle(document.body).backgroundColor, poor];
})()"""


def test_both_schemes_have_enough_contrast(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    one, two = worker(), worker()
    one("[price('tea') for _ in range(9)] and None")
    two.kill()
    served = serve()
    papers = []
    for scheme in ("light", "dark"):
        browser.scheme(scheme)
        browser.open(served.address)
        browser.until_true("document.querySelector('.seats .ended') !== null")
        paper, poor = browser.run(CONTRAST)
        assert poor == [], scheme
        papers.append(paper)
    assert papers == ["rgb(246, 247, 247)", "rgb(15, 20, 19)"]


def test_each_part_has_a_name_for_those_who_do_not_see_it(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    worker()("[price('tea') for _ in range(9)] and None")
    browser.open(serve().address)
    nameless = browser.run(
        "[...document.querySelectorAll('svg[role=img], button, input, nav, section, .scroll, .figures')]"
        ".filter((each) => !(each.ariaLabel || each.labels?.length || each.textContent.trim()))"
        ".map((each) => each.outerHTML)"
    )
    assert nameless == []
    assert browser.run("document.documentElement.lang") == "en"
    assert browser.run("document.querySelectorAll('h1').length") == 1
    ids = browser.run("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


def test_it_can_be_read_without_scripts(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    worker()("[price('tea') for _ in range(9)] and None")
    served = serve()
    browser.call("Emulation.setScriptExecutionDisabled", value=True)

    def is_there() -> bool:
        browser.open(served.address)
        return row(browser, "functions", "shop.prices:price")[2:3] == ["88.9 %"]

    browser.until(is_there)
    assert browser.run("getComputedStyle(document.getElementById('pause')).display") == "none"


def test_who_has_the_token_may_invalidate(
    worker: NewWorker, serve: Serve, browser: Browser, token_file: str, until: Until
) -> None:
    one = worker()
    one("price('tea') and price('milk') and None")
    served = serve("--token-file", token_file)
    browser.open(served.address)
    assert browser.text("h1") == "Log in"
    assert "shop" not in browser.run("document.body.textContent")
    browser.type("a token of another test")
    browser.press("Enter")
    browser.until_true("document.querySelector('.wrong')?.textContent === 'That is not the token.'")
    browser.run("document.querySelector('input').focus()")
    browser.type(TOKEN)
    browser.press("Enter")
    browser.until_true("document.querySelector('#functions') !== null")
    assert browser.run("document.cookie") == ""  # no script reads it

    browser.open(served.address + "keys?like=tea")
    browser.open(browser.run("document.querySelector('#found a').href"))
    assert browser.text(".state") == "served"
    browser.run("document.querySelector('.act').focus()")
    browser.press("Enter")
    browser.until_true("document.querySelector('main [role=status]') !== null")
    assert browser.text("h1") == "Invalidated"
    assert not one("cache.info(('x',))")
    assert [info[0] for info in one("[(each.name,) for each in cache.entries()]")] == ["shop.prices:price('milk')"]

    # A form that another site has made has no cookie, and none that a session has given out.
    cookies = browser.call("Network.getCookies")["cookies"]
    assert [(each["httpOnly"], each["sameSite"]) for each in cookies] == [(True, "Strict")]
    status = browser.run(
        f"fetch({json.dumps(served.address + 'act')}, {{method: 'POST', headers: {{'Content-Type': "
        "'application/x-www-form-urlencoded'}, body: 'csrf=x&kind=namespace&name=&sure=yes'})"
        ".then((each) => each.status)"
    )
    assert status == 403
    assert len(one("[(each.name,) for each in cache.entries()]")) == 1


def test_a_group_that_ends_and_begins_again_is_shown_again(worker: NewWorker, serve: Serve, browser: Browser) -> None:
    served = serve()
    browser.open(served.address)
    assert browser.text("h1") == "Nobody is there"
    one = worker()
    one("price('tea') and None")
    browser.until_true("document.querySelector('#functions')?.textContent.includes('shop.prices:price')")
    one("cache.close()")
    browser.until_true("document.body.dataset.state === 'lost'")
    one("cache.__init__('shop')")
    one("cache.set('again', 1) and None")
    browser.until_true("document.body.dataset.state === 'live'")


def status_of(address: str, name: str) -> int:
    """Return the status of the answer to who asks for a name."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", "/", headers={"Host": name})
        return connection.getresponse().status


def test_another_name_is_refused(worker: NewWorker, serve: Serve) -> None:
    worker()
    served = serve("--name", "cache.example")
    for name, status in (
        ("attacker.example", 421),
        ("127.0.0.1:80", 200),
        ("localhost", 200),
        ("Cache.example:8080", 200),
    ):
        assert status_of(served.address, name) == status
