"""The yardstick: a bare Litestar handler that reads a body and answers, on the same server as the portal."""

import sys

import uvicorn
from litestar import Litestar, Request, post


@post("/", status_code=202)
async def echo(request: Request) -> dict[str, int]:
    return {"bytes": len(await request.body())}


if __name__ == "__main__":
    uvicorn.run(
        Litestar([echo], openapi_config=None),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        log_level="error",
        access_log=False,
    )
