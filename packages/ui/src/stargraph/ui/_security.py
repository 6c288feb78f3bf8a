"""Who may see the pages, and from where: hosts, origins, the one-time link, cookies, CSRF tokens, headers."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Final, TypeAlias
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import URL, Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Auth: TypeAlias = Callable[[Request], bool | Awaitable[bool]]
"""Tells whether a request may see the pages; asked for each request, in place of the one-time link."""

LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
"""The hosts that a browser on this machine may name."""

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types stargraph"
)
HEADERS: Final = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not no-referrer, with which a browser sends `Origin: null` when a form is posted.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
"""What each response carries."""

MAX_BODY: Final = 8_000_000
"""How many bytes a form may have."""

_LOGGER: Final = logging.getLogger("stargraph.ui")

_MAX_LINKS: Final = 8
_STATIC: Final = "/static/"


class Access:
    """The sessions of one app.

    Args:
        auth: decides instead of the one-time link; None for the link.
        hosts: the host names that a request may be for; None for any.

    Attributes:
        on_sign_in: called after a link was used.
    """

    def __init__(self, *, auth: Auth | None, hosts: Sequence[str] | None) -> None:
        self.auth = auth
        self.hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        self.on_sign_in: Callable[[], object] = lambda: None
        self._key = secrets.token_bytes(32)
        self._links: list[str] = []

    def new_token(self) -> str:
        """Return the token of a new link; it works once."""
        token = secrets.token_urlsafe(32)
        self._links = [*self._links, token][-_MAX_LINKS:]
        return token

    def redeem(self, token: str) -> bool:
        """Use up the token of a link, and tell whether it was one."""
        found = [each for each in self._links if hmac.compare_digest(each.encode(), token.encode())]
        self._links = [each for each in self._links if each not in found]
        return bool(found)

    def open_session(self) -> str:
        """Return the id of a new session; it proves itself, so that nobody can fill a list of them up."""
        nonce = secrets.token_urlsafe(32)
        return f"{nonce}.{self._sign('session', nonce)}"

    def knows(self, session: str) -> bool:
        """Return whether a session was opened here."""
        nonce, _, signature = session.partition(".")
        return hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), self._sign("session", nonce).encode())

    def csrf_token(self, session: str) -> str:
        """Return what a form of a session must send along."""
        return self._sign("form", session)

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose} {text}".encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


class Guard:
    """ASGI middleware that lets through what `Access` allows, and sets the headers of every response.

    Starlette answers an error that has no handler outside of all middleware, so without these headers. This middleware
    answers it instead.

    Args:
        app: what it guards.
        access: the sessions.
        explain_fault: makes the page that tells somebody who is signed in of an error that has no handler.
    """

    def __init__(self, app: ASGIApp, access: Access, explain_fault: Callable[[Request, Exception], Response]) -> None:
        self._app = app
        self._access = access
        self._explain_fault = explain_fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        began = False

        async def send_guarded(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if "stargraph.cookie" in scope:
                    headers.append("set-cookie", scope["stargraph.cookie"])
            await send(message)

        try:
            await self._answer(scope, receive, send_guarded)
        except ClientDisconnect:
            return  # nobody waits for the answer
        except Exception as error:
            if began:  # only the server can cut off what is half sent; it logs the error
                raise
            await self._fault_page(Request(scope, receive), error)(scope, receive, send_guarded)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        refusal = self._refuse_place(request) or await self._refuse_person(request)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        if request.method == "POST":
            body = await _body(request)
            if body is None:
                await _refused(413, "The form is too large.")(scope, receive, send)
                return
            if not self._has_csrf_token(request, body):
                await _refused(403, "The form is too old or was not made here. Go back, reload the page, try again.")(
                    scope, receive, send
                )
                return
            receive = _again(body, receive)
        await self._app(scope, receive, send)

    def _fault_page(self, request: Request, error: Exception) -> Response:
        """Log an error that nobody expected, and return what the person sees of it."""
        _log_fault(request, error)
        if is_signed_in(request):
            try:
                return self._explain_fault(request, error)
            except Exception as second:  # noqa: BLE001  # what broke the page may break this one too
                _log_fault(request, second)
        return _refused(500, "This page failed. The log of the server says where.")

    def _refuse_place(self, request: Request) -> Response | None:
        """Refuse what comes through another name (DNS rebinding) or from a page of another origin."""
        if request.method not in ("GET", "HEAD", "POST"):
            return _refused(405, "Only GET, HEAD and POST are answered.")
        hosts = self._access.hosts
        host = request.headers.get("host", "")
        if hosts is not None and (urlsplit(f"//{host}").hostname or "") not in hosts:
            return _refused(421, "This page answers under its own host names only. --host names others.")
        site = request.headers.get("sec-fetch-site", "same-origin")
        is_visit = request.method == "GET" and request.headers.get("sec-fetch-mode", "navigate") == "navigate"
        if site not in ("same-origin", "none") and not is_visit:
            return _refused(403, "Another page asked for this.")
        if request.method == "POST" and not _is_same_origin(request.headers.get("origin"), host):
            return _refused(403, "A form of another page cannot be posted here.")
        return None

    async def _refuse_person(self, request: Request) -> Response | None:
        access = self._access
        path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
        if path.startswith(_STATIC):  # the same for everybody
            return None
        cookie = cookie_name(request)
        session = _cookies(request.headers).get(cookie, "")
        if access.auth is not None:
            allowed = access.auth(request)
            if inspect.isawaitable(allowed):
                allowed = await allowed
            if allowed is not True:
                return _refused(403, "You may not see this page.")
            if session and access.knows(session):
                request.scope["stargraph.csrf"] = access.csrf_token(session)
                return None
            # The hook has let the person in; the session is only what the CSRF token belongs to.
            session = access.open_session()
            request.scope["stargraph.csrf"] = access.csrf_token(session)
            response = Response()
            _set_cookie(response, request, session)
            request.scope["stargraph.cookie"] = response.headers["set-cookie"]
            return None
        token = request.query_params.get("token")
        if session and access.knows(session):
            request.scope["stargraph.csrf"] = access.csrf_token(session)
            return RedirectResponse(_relative(request.url.remove_query_params("token")), 303) if token else None
        if token and request.method == "GET" and access.redeem(token):
            access.on_sign_in()
            return self._signed_in(request, request.url.remove_query_params("token"))
        return _refused(
            401, "Open the link that the terminal shows; it works once. If it was used, the terminal shows another one."
        )

    def _signed_in(self, request: Request, url: URL) -> Response:
        response = RedirectResponse(_relative(url), 303)
        _set_cookie(response, request, self._access.open_session())
        return response

    def _has_csrf_token(self, request: Request, body: bytes) -> bool:
        sent = request.headers.get("x-csrf-token")
        if sent is None:
            sent = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True).get("csrf", [""])[0]
        return hmac.compare_digest(sent.encode(), request.scope["stargraph.csrf"].encode())


def _log_fault(request: Request, error: Exception) -> None:
    """Log where an error was raised, without its text, which may hold values of a run."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    _LOGGER.error("%s %s: %s\n%s", request.method, request.url.path, type(error).__qualname__, frames)


def cookie_name(request: Request) -> str:
    """Return the name of the cookie; a browser sends those of all ports of a host to each of them."""
    return f"stargraph-ui-{request.url.port or 0}"


def _set_cookie(response: Response, request: Request, session: str) -> None:
    response.set_cookie(
        cookie_name(request),
        session,
        path=request.scope.get("root_path") or "/",
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )


def is_signed_in(request: Request) -> bool:
    """Return whether the guard has let somebody in; it lets assets through without looking."""
    return "stargraph.csrf" in request.scope


def csrf_of(request: Request) -> str:
    """Return the token that a form on this page sends along."""
    return str(request.scope.get("stargraph.csrf", ""))


def _relative(url: URL) -> str:
    # Never with a host: a path that begins with two slashes would name one.
    path = "/" + url.path.lstrip("/")
    return f"{path}?{url.query}" if url.query else path


def _cookies(headers: Headers) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def _is_same_origin(origin: str | None, host: str) -> bool:
    # Without the scheme: a proxy that ends TLS is https outside and http inside.
    return origin is not None and bool(host) and urlsplit(origin).netloc.lower() == host.lower()


async def _body(request: Request) -> bytes | None:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return None
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body that was read already, and then what else comes."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _refused(status: int, sentence: str) -> Response:
    return PlainTextResponse(f"{sentence}\n", status)
