"""The dashboard as an application of HTTP, whatever carries the requests.

**Who may do what.** Without a token, whoever reaches it may look, and nobody may change anything. With a token, who has
not logged in sees the form that asks for it, and who has may look and invalidate.

**What protects it.** All texts are escaped, and no page has a script or a style in it: so the browser is told to run
only the two files. Forms carry a token of their session. Names of hosts can be limited, for a site whose name an
attacker points to 127.0.0.1 is that attacker's. What a request can cost has limits: the sizes of its parts, and the
model looks at most once a second, whoever asks.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from importlib.resources import files
from typing import Final
from urllib.parse import parse_qs

from ..core.host.scores import OTHERS
from ..core.keys import MAX_WIRE, namespace_of, shown_wire
from ..interruptions import raise_if_from_handler
from . import pages, words
from .frame import Frame, whole
from .history import SPACES, Line, Sample
from .markup import Markup
from .model import Model
from .sessions import Sessions, cookie
from .source import Action, Blind, Kind, Source

LARGEST: Final = 8192  # bytes of a form
LONGEST: Final = 4096  # characters of a query
FEW: Final = 1024  # bytes below which nothing is compressed

_CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
_SECURITY: Final = (
    ("Content-Security-Policy", _CSP),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
)
_TYPES: Final = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_PHRASES: Final = {
    200: "OK", 303: "See Other", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    413: "Content Too Large", 421: "Misdirected Request", 503: "Service Unavailable",
}  # fmt: skip
_HTML: Final = "text/html; charset=utf-8"


@dataclass(frozen=True)
class Request:
    """A request. The names of headers are in lower case."""

    method: str
    root: str  # path at which the application is mounted, without a ``/`` at its end
    path: str  # below the root
    query: str
    headers: Mapping[str, str]
    is_secure: bool = False
    body: bytes = field(default=b"", repr=False)  # of a POST, at most one byte more than `LARGEST`


@dataclass(frozen=True)
class Response:
    """An answer."""

    status: int
    body: bytes = b""
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def line(self) -> str:
        """The status with its phrase."""
        return f"{self.status} {_PHRASES[self.status]}"


class _Refused(Exception):
    """Why a request is not answered as it wishes."""

    def __init__(self, status: int, title: str, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status, self.title, self.text, self.headers = status, title, text, headers


@dataclass(frozen=True)
class _Asset:
    path: str
    type: str
    body: bytes


def _assets() -> dict[str, _Asset]:
    """Return the files by their names. Their paths change with what is in them, so a browser may keep them."""
    found = {}
    for name in ("dashboard.css", "dashboard.js", "icon.svg"):
        body = (files(__package__) / "static" / name).read_bytes()
        found[name] = _Asset(
            f"static/{blake2b(body, digest_size=6).hexdigest()}/{name}", _TYPES[name.split(".")[-1]], body
        )
    return found


class Application:
    """A dashboard. Any thread may use it. See `colocache.dashboard.make_wsgi_app`."""

    def __init__(self, source: Source, token: str | None, hosts: Iterable[str] | None) -> None:
        """``token`` has been checked. ``hosts`` are the names by which it may be asked; None is any."""
        self.model = Model(source)
        self._sessions = None if token is None else Sessions(token)
        self._hosts = None if hosts is None else frozenset([name.lower() for name in hosts])
        self._assets = _assets()
        self._by_path = {asset.path: asset for asset in self._assets.values()}
        self._names = {name: asset.path for name, asset in self._assets.items()}

    def answer(self, request: Request) -> Response:
        """Answer a request."""
        try:
            response = self._answer(request)
        except _Refused as refused:
            body = pages.message(refused.title, refused.text)
            frame = Frame(self.model.source.group, f"{request.root}/", self._names)
            response = _page(refused.status, whole(frame, refused.title, body, public=True), *refused.headers)
        return _finished(request, response)

    def _answer(self, request: Request) -> Response:
        self._check_host(request)
        if request.method not in ("GET", "HEAD", "POST"):
            raise _Refused(405, "Not allowed", "Only GET, HEAD and POST are answered.", ("Allow", "GET, HEAD, POST"))
        if len(request.query) > LONGEST:
            raise _Refused(413, "Too long", "The query is too long.")
        if not request.path:  # relative to the root, so that a proxy may put it anywhere
            return Response(303, headers=[("Location", f"{request.root}/")])
        path = request.path.lstrip("/")
        if path in self._by_path:
            asset = self._by_path[path]
            return Response(200, asset.body, [
                ("Content-Type", asset.type), ("Cache-Control", "public, max-age=31536000, immutable"),
            ])  # fmt: skip
        session = None if self._sessions is None else self._sessions.of(request.headers.get("cookie", ""))
        if request.method == "POST":
            return self._post(request, path, session)
        if self._sessions is not None and session is None:
            if _first(_fields(request.query), "live"):
                raise _Refused(403, "Log in", "The session has ended.")
            frame = Frame(self.model.source.group, f"{request.root}/", self._names)
            return _page(200, whole(frame, "Log in", pages.login(frame), public=True))
        return self._get(request, path, self._frame(request, session))

    def _frame(self, request: Request, session: str | None) -> Frame:
        may_act = session is not None and self._sessions is not None
        csrf = self._sessions.csrf(session) if self._sessions is not None and session is not None else ""
        return Frame(self.model.source.group, f"{request.root}/", self._names, may_act, csrf)

    def _check_host(self, request: Request) -> None:
        if self._hosts is None:
            return
        given = request.headers.get("host", "")
        name = re.sub(r":\d*$", "", given).lower()
        if name not in self._hosts:
            raise _Refused(
                421, "Wrong host", f"This dashboard is not asked by the name {words.name(given[:100])}. It is asked by "
                f"{', '.join(sorted(self._hosts))}; `--name` of `colocache dashboard`, or `hosts` of the application, "
                "gives it another name.",
            )  # fmt: skip

    # --- To look

    def _get(self, request: Request, path: str, frame: Frame) -> Response:
        query = _fields(request.query)
        draw: Callable[[Mapping[str, list[str]], Frame], Response] | None = {
            "": self._overview, "space": self._space, "keys": self._keys, "key": self._key,
        }.get(path)  # fmt: skip
        if draw is None:
            raise _Refused(404, "Not found", "There is no such page.")
        try:
            return draw(query, frame)
        except Blind as blind:
            if _first(query, "live"):
                return _json({"blind": str(blind)}, 503)
            body = pages.message("Nobody is there", str(blind))
            return _page(503, whole(frame, "Nobody is there", body, live=True))

    def _overview(self, query: Mapping[str, list[str]], frame: Frame) -> Response:
        picture = self.model.picture()
        parts = pages.overview(frame, self.model, picture)
        if _first(query, "live"):
            return _live(query, parts, picture.samples, [None, *pages.rows_of(picture)])
        return _page(200, whole(frame, "Overview", pages.overview_body(parts, picture), live=True))

    def _space(self, query: Mapping[str, list[str]], frame: Frame) -> Response:
        path = _first(query, "of")
        picture = self.model.picture()
        known = picture.host.spaces.keys() | picture.memory.spaces.keys()
        if path not in known and not any(each.startswith(f"{path}/") for each in known):
            raise _Refused(404, "Not found", f"This host knows no namespace or function {words.space(path)}.")
        parts = pages.space(frame, picture, path, self.model.hot(path) if path else picture.hot)
        if _first(query, "live"):
            return _live(query, parts, picture.samples, [path])
        return _page(200, whole(frame, words.space(path), pages.space_body(frame, parts, path), "space", live=True))

    def _keys(self, query: Mapping[str, list[str]], frame: Frame) -> Response:
        namespace, like = _first(query, "in"), _first(query, "like")
        found = self.model.search(namespace, like)
        return _page(200, whole(frame, "Keys", pages.keys(frame, namespace, like, found), "keys"))

    def _key(self, query: Mapping[str, list[str]], frame: Frame) -> Response:
        wire = _wire(_first(query, "k"))
        info = self.model.key(wire)
        name = words.name(shown_wire(wire))
        return _page(200 if info else 404, whole(frame, name or "Key", pages.key(frame, info), "key"))

    # --- To act

    def _post(self, request: Request, path: str, session: str | None) -> Response:
        if self._sessions is None:
            raise _Refused(403, "Read-only", "Nothing can be changed here, because no token is configured.")
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise _Refused(403, "Refused", "This form was sent by another site.")
        if len(request.body) > LARGEST:
            raise _Refused(413, "Too large", f"A form has at most {LARGEST} bytes.")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise _Refused(400, "Refused", "This is no form.")
        form = _fields(request.body.decode("utf-8", "replace"))
        root = f"{request.root}/"
        if path == "login":
            if not self._sessions.is_token(_first(form, "token")):
                frame = Frame(self.model.source.group, root, self._names)
                body = pages.login(frame, "That is not the token.")
                return _page(403, whole(frame, "Log in", body, public=True))
            header = cookie(self._sessions.begin(), root, request.is_secure)
            return Response(303, headers=[("Location", root), ("Set-Cookie", header)])
        if session is None or not self._sessions.is_csrf(session, _first(form, "csrf")):
            raise _Refused(403, "Refused", "The form is not one of this session: reload its page, or log in again.")
        if path == "logout":
            header = cookie("", root, request.is_secure, 0)
            return Response(303, headers=[("Location", root), ("Set-Cookie", header)])
        if path != "act":
            raise _Refused(404, "Not found", "There is no such page.")
        return self._act(form, self._frame(request, session))

    def _act(self, form: Mapping[str, list[str]], frame: Frame) -> Response:
        action = _action(form)
        outcome = self.model.source.act(action)
        reached = f"{words.plural(outcome.processes, 'process', 'processes')} of this host"
        if outcome.hosts > 1:
            reached += f", {words.plural(outcome.hosts, 'host')}"
        is_well = outcome.complete and not outcome.text
        text = f"No process of the group serves it any more: {reached}."
        if not is_well:
            text = outcome.text or f"Other processes may serve the old value: {reached} have been told."
        name = words.space(action.name) if action.kind == "namespace" else action.name
        return _page(200, whole(frame, "Done", pages.acted(frame, f"{action.kind} {name}", text, is_well), "act"))


# --- Parts of requests


def _fields(text: str) -> Mapping[str, list[str]]:
    """Return the fields of a query or form."""
    try:
        return parse_qs(text, keep_blank_values=True, max_num_fields=20, errors="replace")
    except ValueError as error:
        raise_if_from_handler(error)
        raise _Refused(400, "Refused", "There are too many fields.") from None


def _first(query: Mapping[str, list[str]], name: str) -> str:
    """Return a parameter, empty if it is missing."""
    return query.get(name, [""])[0]


def _wire(text: str) -> bytes:
    try:
        wire = bytes.fromhex(text)
        namespace_of(wire)
        shown_wire(wire)
    except ValueError as error:
        raise_if_from_handler(error)
        raise _Refused(400, "Refused", "That is not a key.") from None
    if not 0 < len(wire) <= MAX_WIRE:
        raise _Refused(400, "Refused", "That is not a key.")
    return wire


def _action(form: Mapping[str, list[str]]) -> Action:
    kind, name = _first(form, "kind"), _first(form, "name")
    kinds: dict[str, Kind] = {"key": "key", "tag": "tag", "namespace": "namespace"}
    if kind not in kinds:
        raise _Refused(400, "Refused", "There is no such action.")
    if kind == "key":
        wire = _wire(name)
        return Action("key", shown_wire(wire), wire)
    if kind == "namespace" and (_first(form, "sure") != "yes" or name == OTHERS or len(name.encode()) > 200):
        raise _Refused(400, "Refused", "Nothing was cleared: say that you mean it.")
    if kind == "tag" and not name:
        raise _Refused(400, "Refused", "A tag has a name.")
    return Action(kinds[kind], name)


# --- Responses


def _page(status: int, page: Markup, *headers: tuple[str, str]) -> Response:
    return Response(status, page.encode("utf-8", "backslashreplace"), [("Content-Type", _HTML), *headers])


def _json(value: object, status: int = 200) -> Response:
    body = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return Response(status, body, [("Content-Type", "application/json")])


def _live(
    query: Mapping[str, list[str]], parts: Mapping[str, Markup], samples: list[Sample], paths: list[str | None]
) -> Response:
    """Answer the script of a page: the parts as they are now, and what was counted after what it knows."""
    try:
        after = float(_first(query, "after") or 0)
    except ValueError as error:
        raise_if_from_handler(error)
        after = 0.0
    newer = [each for each in samples if each.time > after]
    lines = [[each.time, [[path, _line(each.line(path))] for path in paths]] for each in newer]
    return _json({"parts": parts, "samples": lines})


def _line(line: Line | None) -> list[float] | None:
    return None if line is None else [*line[:3], round(line.load_seconds, 6), float(f"{line.worth:.6g}")]


def _finished(request: Request, response: Response) -> Response:
    headers, body = [*response.headers, *_SECURITY], response.body
    if not any(name == "Content-Type" for name, _ in headers):
        headers.append(("Content-Type", "text/plain; charset=utf-8"))
    if not any(name == "Cache-Control" for name, _ in headers):
        headers.append(("Cache-Control", "no-store"))
    if len(body) > FEW and re.search(
        r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", request.headers.get("accept-encoding", "")
    ):
        body = gzip.compress(body, 4)
        headers += [("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
    headers.append(("Content-Length", str(len(body))))
    return Response(response.status, b"" if request.method == "HEAD" else body, headers)


assert SPACES > pages.ROWS  # a sample has all that the first page shows
