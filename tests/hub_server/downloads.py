"""How files get out: a redirect to a pre-signed address on another origin for the big ones, as on the real Hub."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from hub_server.state import Hub, Refused, address


async def resolve(hub: Hub, request: Request, kind: str, id_: str, revision: str, path: str) -> Response:
    repository = hub.repository(request, kind, id_)
    commit = repository.at(revision)
    headers = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
    entry = commit.tree.get(path)
    if entry is None:
        told = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return JSONResponse({"error": "Entry not found"}, 404, headers | told)
    if entry.sha256 is None:
        name = f'inline; filename="{quote(Path(path).name)}"'
        told = {"ETag": f'"{entry.oid}"', "Content-Disposition": name}
        return FileResponse(hub.blobs / entry.oid, headers=headers | told)
    # On another origin: huggingface_hub follows same-origin redirects on HEAD and would miss the X-… headers.
    if entry.xet:
        token = f"{address(request)}/api/{kind}s/{id_}/xet-read-token/{commit.sha}"
        headers |= {"X-Xet-Hash": entry.xet, "Link": f'<{token}>; rel="xet-auth"'}
    linked = {"ETag": f'"{entry.oid}"', "X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    return Response(status_code=302, headers=headers | linked | {"Location": hub.link(entry.sha256)})


async def cdn(hub: Hub, request: Request, key: str) -> Response:
    """The second origin: no token is asked for, the address is enough."""
    sha256 = hub.links[key]
    return FileResponse(hub.lfs / sha256, headers={"ETag": f'"{sha256}"'})


async def xet_token(hub: Hub, request: Request, kind: str, id_: str, right: str, revision: str) -> Response:
    hub.repository(request, kind, id_, write=right == "write" and "create_pr" not in request.query_params)
    if hub.cas is None:
        raise Refused(501, "this server has no Xet storage: set HF_HUB_DISABLE_XET=1")
    ends = int(time.time()) + 3600
    headers = {"X-Xet-Cas-Url": hub.cas, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(ends)}
    return JSONResponse({"accessToken": "xet", "exp": ends, "casUrl": hub.cas}, headers=headers)
