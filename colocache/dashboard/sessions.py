"""Who may see a dashboard that has a token, and who has sent a form: cookies and form tokens that need no memory.

Both are made with the token as their key. So all workers of a server that know the token accept what one of them has
given, and a new token ends all sessions.
"""

from __future__ import annotations

import hmac
import secrets
import time
from hashlib import blake2b
from http.cookies import CookieError, SimpleCookie
from typing import Final

COOKIE: Final = "colocache_dashboard"
LASTS: Final = 12 * 3600  # s
LEAST: Final = 16  # letters of a token: nobody guesses so many
MOST: Final = 1024


def checked_token(token: object, name: str = "token") -> str:
    """Return a token. Raise ValueError for one that cannot be used; the text does not show it."""
    if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token == token.strip()):
        raise ValueError(f"{name} is a text of printable ASCII characters without spaces around it")
    if not LEAST <= len(token) <= MOST:
        raise ValueError(
            f"{name} has {len(token)} characters: give {LEAST} to {MOST} of them; `colocache secret` prints a good one"
        )
    return token


class Sessions:
    """The sessions of a dashboard with a token. Any thread may use it."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()
        self._key = blake2b(self._token, digest_size=32, person=b"colocache-dash").digest()

    def is_token(self, given: str) -> bool:
        """Tell whether somebody has given the token, in a time that says nothing about it."""
        mine = hmac.digest(self._key, self._token, "sha256")
        return hmac.compare_digest(mine, hmac.digest(self._key, given.encode("utf-8", "surrogatepass"), "sha256"))

    def begin(self) -> str:
        """Return the value of the cookie of a new session."""
        return self._signed(f"{int(time.time()) + LASTS}.{secrets.token_urlsafe(18)}")

    def of(self, cookies: str) -> str | None:
        """Return the session that a header ``Cookie`` names, if it is one of ours that lasts."""
        try:
            morsel = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            return None
        value = "" if morsel is None else morsel.value
        body, _, _ = value.rpartition(".")
        if not value.isascii() or not hmac.compare_digest(value, self._signed(body)):
            return None
        return value if int(body.partition(".")[0]) > time.time() else None

    def csrf(self, session: str) -> str:
        """Return what each form of a session carries."""
        return self._mac(b"form", session)

    def is_csrf(self, session: str, given: str) -> bool:
        """Tell whether a form is one of the session's."""
        return given.isascii() and hmac.compare_digest(given, self.csrf(session))

    def _signed(self, body: str) -> str:
        return f"{body}.{self._mac(b'session', body)}"

    def _mac(self, use: bytes, text: str) -> str:
        return blake2b(text.encode(), key=self._key, digest_size=24, person=use).hexdigest()


def cookie(value: str, root: str, is_secure: bool, lasts: int = LASTS) -> str:
    """Return the header that sets the cookie, or forgets it if it lasts for 0 s."""
    secure = "; Secure" if is_secure else ""
    return f"{COOKIE}={value}; Path={root}; Max-Age={lasts}; HttpOnly; SameSite=Strict{secure}"
