"""The routes, and the application that finds the one for a request, lets faults happen and keeps the log."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hub_server import downloads, pulls, repositories, uploads
from hub_server.faults import Dropped, Fault, Faults, hang
from hub_server.state import Hub, Refused, body

Handler = Callable[..., Awaitable[Any]]

_API = r"/api/(models|datasets|spaces)"
_REPO = _API + r"/([^/]+/[^/]+?)"
_PAGE = r"/(datasets/|spaces/|)([^/]+/[^/]+?)"
_ROUTES: list[tuple[str, str, Handler]] = [
    ("GET", "/api/whoami-v2", repositories.whoami),
    ("POST", "/api/repos/create", repositories.create),
    ("DELETE", "/api/repos/delete", repositories.delete),
    ("POST", "/api/validate-yaml", repositories.validate_yaml),
    ("GET", _API, repositories.listed),
    ("GET", _REPO, repositories.info),
    ("GET", _REPO + "/revision/([^/]+)", repositories.info),
    ("PUT", _REPO + "/settings", repositories.settings),
    ("GET", _REPO + "/refs", repositories.refs),
    ("POST DELETE", _REPO + "/tag/([^/]+)", repositories.tag),
    ("POST DELETE", _REPO + "/branch/([^/]+)", repositories.branch),
    ("GET", _REPO + "/commits/([^/]+)", repositories.history),
    ("GET", _REPO + "/tree/([^/]+)", repositories.tree),
    ("GET", _REPO + "/tree/([^/]+)/(.*)", repositories.tree),
    ("POST", _REPO + "/paths-info/([^/]+)", repositories.paths_info),
    ("POST", _REPO + "/preupload/([^/]+)", uploads.preupload),
    ("POST", _REPO + "/commit/([^/]+)", uploads.commit),
    ("GET POST", _REPO + "/discussions", pulls.discussions),
    ("GET", _REPO + r"/discussions/(\d+)", pulls.discussions),
    ("POST", _REPO + r"/discussions/(\d+)/(merge|status)", pulls.discussions),
    ("GET", _REPO + "/xet-(read|write)-token/([^/]+)", downloads.xet_token),
    ("POST", _PAGE + r"\.git/info/lfs/objects/batch", uploads.lfs_batch),
    ("POST", _PAGE + r"\.git/info/lfs/verify", uploads.lfs_verify),
    ("PUT GET HEAD", "/__lfs__/([^/]+)", uploads.lfs_object),
    ("GET HEAD", "/__cdn__/([^/]+)", downloads.cdn),
    ("GET HEAD", _PAGE + "/resolve/([^/]+)/(.*)", downloads.resolve),
]
_COMPILED = [(methods.split(), re.compile(pattern + "$"), handler) for methods, pattern, handler in _ROUTES]
_OF_NO_REPOSITORY = (downloads.cdn, uploads.lfs_object)


class App:
    """The ASGI application."""

    def __init__(self, hub: Hub) -> None:
        self.hub, self.faults = hub, Faults()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request, path = Request(scope, receive), scope["raw_path"].decode().split("?")[0]
        if path.startswith("/__") and path.strip("_/") in ("log", "fault"):
            await (await self._control(request, path.strip("_/")))(scope, receive, send)
            return
        try:
            response = await self._answered(request, path)
        except Dropped:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})  # too short: uvicorn hangs up
            return
        query = scope["query_string"].decode()
        self.hub.log.append(f"{request.method} {path}{'?' + query if query else ''} {response.status_code}")
        await response(scope, receive, send)

    async def _control(self, request: Request, what: str) -> Response:
        if what == "log":
            seen = list(self.hub.log)
            if "clear" in request.query_params:
                self.hub.log.clear()
            return JSONResponse(seen)
        asked = await body(request)
        if asked:
            self.faults.add(Fault(**asked))
        else:
            self.faults.clear()
        return JSONResponse({})

    async def _answered(self, request: Request, path: str) -> Response:
        fault = self.faults.take(request.method, path)
        try:
            if fault and not fault.after:
                await self._before(fault, request, path)
            response = await self._routed(request, path)
            if fault and fault.after:
                raise Dropped if fault.drop else Refused(fault.status, "injected fault after it was carried out")
        except Refused as refused:
            headers = {"X-Error-Message": refused.message} | (fault.headers if fault else {})
            headers |= {"X-Error-Code": refused.code} if refused.code else {}
            return JSONResponse({"error": refused.message}, refused.status, headers)
        return response if isinstance(response, Response) else JSONResponse(response)

    async def _before(self, fault: Fault, request: Request, path: str) -> None:
        if fault.sleep:
            self.hub.log.append(f"{request.method} {path} waits")
            await hang(fault, request)
        if fault.intrude:
            kind, id_ = re.match(_REPO + "/", path).groups()
            uploads.intrude(self.hub, self.hub.repositories[_kind(kind), id_], fault.intrude)
        request.state.omit = fault.omit
        if fault.drop:
            raise Dropped
        if fault.status:
            raise Refused(fault.status, "injected fault")

    async def _routed(self, request: Request, path: str) -> Any:
        for methods, pattern, handler in _COMPILED:
            found = pattern.match(path) if request.method in methods else None
            if found:
                arguments = [unquote(part) if part is not None else part for part in found.groups()]
                if arguments and handler not in _OF_NO_REPOSITORY:
                    arguments[0] = _kind(arguments[0])
                return await handler(self.hub, request, *arguments)
        raise Refused(404, f"no route for {request.method} {path}")


def _kind(folder: str) -> str:
    """ "datasets", "datasets/" -> "dataset"; "" -> "model"."""
    return folder.rstrip("/").removesuffix("s") or "model"
