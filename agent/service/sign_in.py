"""Signing in to the pages: a browser sends a key once, and a cookie from then on.

Programs send the key in a header and never need this. The cookie is for the pages alone: no page of
another site can make a browser send it, and no script can read it.
"""

from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from agent.service.keys import Keys, Scope
from agent.viewer.routes import HEADERS

COOKIE = "ratchet-key"
PATH = "/view/sign-in"
MAX_BODY = 4_096
OPEN = (PATH, "/view/static/style.css", "/view/static/icon.svg")
"""What a browser needs before it is signed in."""
FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Sign in · Ratchet</title>
<link rel="stylesheet" href="/view/static/style.css"></head>
<body><main><h1>Sign in</h1><p>{0}</p>
<form method="post" action="/view/sign-in"><fieldset><legend>A key with the scope inspect</legend>
<label>key <input type="password" name="key" autocomplete="current-password" autofocus></label>
<button>Sign in</button></fieldset></form></main></body></html>
"""
ASKED = (
    "These pages need a key: the one who runs the server makes it with <code>ratchet keys</code>."
)
WRONG = "That key is not known here, or may not inspect."


def cookie_key(header: str) -> str:
    """The key of a Cookie header; empty without one."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def form(text: str = ASKED) -> Response:
    """The page that asks for a key."""
    return HTMLResponse(FORM.format(text), 401, HEADERS)


async def sign_in(request: Request, keys: Keys) -> Response:
    """Take a key and hand out the cookie."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY:
            return form(WRONG)
    key = parse_qs(body.decode("utf-8", "replace")).get("key", [""])[0].strip()
    found = keys.find(key) if key else None
    if found is None or not found.may(Scope.INSPECT):
        return form(WRONG)
    answer = RedirectResponse("/view/", 303, HEADERS)
    answer.set_cookie(
        COOKIE,
        key,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/view",
    )
    return answer
