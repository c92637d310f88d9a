"""A small encyclopaedia of Unicode: a WSGI application that reads SQLite and caches its pages with colocache.

    GET  /char/00E9        a character, its kin and its annotations
    GET  /category/Ll      a general category, as a whole
    GET  /word/ACUTE       a word of the names, as a whole
    POST /annotate/00E9    {"text": "...", "request": "any unique text"}; answers when no worker shows the old pages
    GET  /stats            the figures of this worker

Run any number of worker processes; each imports this module, and together they hold one cache.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import colocache
import pages
from database import Database

database = Database(os.environ["DEMO_DATABASE"])
cache = colocache.Cache("demo", ttl=600)  # starts nothing; the process joins the group at its first request


# A page is cached under its arguments. Its tags name what else it is made of.


@cache.cached(ttl=600)
def character_page(cp: int) -> dict[str, Any] | None:
    """Return the page of one character, or None."""
    return pages.character(database, cp)


@cache.cached(ttl=600, tags=lambda name: (f"category:{name}",))
def category_page(name: str) -> dict[str, Any] | None:
    """Return the page of a category. It counts the annotations of all characters of the category."""
    return pages.category(database, name)


@cache.cached(ttl=600, tags=lambda word: (f"word:{word}",))
def word_page(word: str) -> dict[str, Any] | None:
    """Return the page of a word. It counts the annotations of all characters with this word in their names."""
    return pages.word(database, word)


def annotate(cp: int, text: str, request: str) -> dict[str, Any] | None:
    """Commit an annotation, then invalidate the pages that show the old state, then answer."""
    written = pages.annotate(database, cp, text, request)
    if written is None:
        return None
    tags = [f"category:{written['category']}", *(f"word:{word}" for word in written["words"])]
    receipts = [character_page.invalidate(cp), cache.invalidate_tags(*tags)]
    return {
        "version": written["version"],
        "versions": written["versions"],
        "complete": all(receipt.complete for receipt in receipts),
        "milliseconds": [receipt.seconds * 1000 for receipt in receipts],
    }


# What follows does not use the cache, except for the figures.


def figures() -> dict[str, Any]:
    """Return what this worker process has done since its start."""
    return {"pid": os.getpid(), "database_reads": database.reads, **dataclasses.asdict(cache.stats())}


class NotFound(Exception):
    """No page has this address."""


class BadRequest(Exception):
    """The request lacks something. The text says what."""


def code_point(text: str) -> int:
    """Return the number in an address such as ``00E9``."""
    try:
        return int(text, 16)
    except ValueError:
        raise BadRequest(f"{text!r} is not a code point: write it in hexadecimal, such as 00E9") from None


def post_annotation(text: str, environ: WSGIEnvironment) -> dict[str, Any] | None:
    """Read the body of a POST, and do what it asks for."""
    try:
        body = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        annotation, request = str(body["text"]), str(body["request"])
    except (ValueError, KeyError, TypeError):
        raise BadRequest('the body must be JSON such as {"text": "e acute", "request": "a-unique-id"}') from None
    return annotate(code_point(text), annotation, request)


ROUTES: dict[tuple[str, str], Callable[[str, WSGIEnvironment], dict[str, Any] | None]] = {
    ("GET", "char"): lambda text, environ: character_page(code_point(text)),
    ("GET", "category"): lambda text, environ: category_page(text),
    ("GET", "word"): lambda text, environ: word_page(text),
    ("POST", "annotate"): post_annotation,
    ("GET", "stats"): lambda text, environ: figures(),
}


def answer(environ: WSGIEnvironment) -> dict[str, Any]:
    """Return the content of the answer to a request."""
    kind, _, rest = environ.get("PATH_INFO", "/").lstrip("/").partition("/")
    route = ROUTES.get((environ["REQUEST_METHOD"], kind))
    found = route(rest, environ) if route else None
    if found is None:
        raise NotFound
    return found


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The WSGI application."""
    try:
        status, content = "200 OK", answer(environ)
    except NotFound:
        status, content = "404 Not Found", {"error": "there is nothing at this address"}
    except BadRequest as error:
        status, content = "400 Bad Request", {"error": str(error)}
    body = json.dumps(content).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
