"""The dashboard as a view of Django::

    re_path(r"^ops/cache/(?P<path>.*)$", staff_member_required(dashboard(cache_of("default"))))

See `dashboard`, and `colocache.dashboard`.
"""

from __future__ import annotations

from collections.abc import Callable

from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from .. import Cache
from ..dashboard import make_application
from ..dashboard.application import Request

__all__ = ["dashboard"]


def dashboard(cache: Cache, *, token: str | None = None) -> Callable[..., HttpResponse]:
    """Return a view that shows what the host of a cache has. It takes the rest of the path as ``path``.

    Put it behind what says who may look, such as ``staff_member_required``. ``token`` is as for
    `colocache.dashboard.make_wsgi_app`, which also says what is raised. Forms are protected by the dashboard itself, so
    Django's protection is not asked. Any thread may call the view; in async code Django runs it in a thread.
    """
    application = make_application(cache, token)

    def view(request: HttpRequest, path: str = "") -> HttpResponse:
        is_post = request.method == "POST"
        try:
            body = request.body if is_post else b""
        except RequestDataTooBig:
            return HttpResponse("The form is too large.", status=413, content_type="text/plain")
        headers = {name.lower(): value for name, value in request.headers.items()}
        root = request.path[: len(request.path) - len(path)].rstrip("/")
        query = str(request.META.get("QUERY_STRING", ""))
        answer = application.answer(
            Request(str(request.method), root, f"/{path}", query, headers, request.is_secure(), body)
        )
        response = HttpResponse(answer.body, status=answer.status)
        for name, value in answer.headers:
            if name == "Set-Cookie":
                response.cookies.load(value)
            else:
                response[name] = value
        return response

    view.__name__ = "colocache_dashboard"
    exempt: Callable[..., HttpResponse] = csrf_exempt(view)
    return exempt
