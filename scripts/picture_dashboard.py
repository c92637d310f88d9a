"""Make the pictures of docs/howto/dashboard.md: run a small shop for a minute, and look at it in a browser.

``python scripts/picture_dashboard.py`` needs Chromium, and a machine with time to spare.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.browser import Browser

ROOT = Path(__file__).resolve().parent.parent
INTO = ROOT / "docs" / "howto" / "pictures"
PROCESSES = 6
SECONDS = 75  # that the shop works before somebody looks


def shop(number: int) -> None:
    """Be a worker of the shop. The first one is killed after a while."""
    import colocache

    chance = random.Random(number)
    cache = colocache.Cache("shop")

    @cache.cached(ttl=60, tags=lambda sku: (f"product:{sku}",), name="shop.prices:price")
    def price(sku: str) -> int:
        time.sleep(chance.expovariate(1 / 0.02))
        return len(sku)

    @cache.cached(ttl=20, name="shop.catalogue:listing")
    def listing(page: int) -> list[str]:
        time.sleep(chance.uniform(0.05, 0.3))
        return ["a product of the shop"] * 40

    @cache.cached(ttl=10, name="shop.users:profile")
    def profile(user: int) -> dict[str, int]:
        time.sleep(0.004)
        return {"user": user}

    @cache.cached(ttl=5, name="shop.weather:forecast")
    def forecast(city: str) -> str:
        time.sleep(0.4)
        if chance.random() < 0.3:
            raise ValueError(city)
        return city

    fragments = cache.namespace("fragments")
    while True:
        for _ in range(chance.randint(5, 60)):
            price(f"sku-{int(chance.paretovariate(1.1)) % 3000}")
            profile(int(chance.paretovariate(0.6)) % 5000)
        listing(chance.randint(1, 12))
        fragments.get_or_load("footer", lambda: "<footer>" * 200)
        if chance.random() < 0.1:
            with contextlib.suppress(ValueError):
                forecast(chance.choice(["Bern", "Oslo", "Porto"]))
        if chance.random() < 0.03:
            cache.invalidate_tags(f"product:sku-{chance.randint(1, 20)}")
        if chance.random() < 0.02:
            price.invalidate("sku-1")
        time.sleep(chance.uniform(0.1, 0.4))


def main() -> None:
    """Make them."""
    INTO.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="colocache-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None
    ) as place:
        os.environ |= {"COLOCACHE_DIR": place, "COLOCACHE_SHELF": "16MiB", "PYTHONPATH": str(ROOT)}
        workers = [multiprocessing.Process(target=shop, args=(number,)) for number in range(PROCESSES)]
        for each in workers:
            each.start()
        while True:
            time.sleep(0.5)
            command = [sys.executable, "-m", "colocache", "dashboard", "--group", "shop", "--listen", "127.0.0.1:0"]
            served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            assert served.stdout is not None
            if line := served.stdout.readline():
                break
        try:
            time.sleep(SECONDS * 0.7)
            workers[1].kill()
            time.sleep(SECONDS * 0.3)
            look(line.split()[-1])
        finally:
            served.terminate()
            served.wait()
            served.stdout.close()
            for each in workers:
                each.kill()
                each.join()


def look(address: str) -> None:
    """Take the pictures."""
    with Browser() as browser:
        for name, scheme, width, page in (
            ("dashboard-light", "light", 1280, ""),
            ("dashboard-dark", "dark", 1280, ""),
            ("dashboard-function", "light", 1280, "space?of=shop.prices%3Aprice"),
            ("dashboard-phone", "dark", 390, ""),
        ):
            browser.scheme(scheme)
            browser.size(width, 844 if width < 500 else 900, is_phone=width < 500)
            browser.open(address + page)
            browser.until_true("document.body.dataset.state === 'live'")
            data = browser.picture(whole=width > 500, kind="webp")
            (INTO / f"{name}.webp").write_bytes(data)
            print(f"{name}.webp: {len(data) // 1024} KiB")


if __name__ == "__main__":
    main()
