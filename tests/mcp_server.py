"""A real MCP server with the tools that a test needs. Run as a process: `stdio`, or `http` on a
port of its own, which it says on a line."""

import asyncio
import os
import socket
import subprocess
import sys
import time

import uvicorn

try:
    from mcp.server.fastmcp import FastMCP as Server
except ModuleNotFoundError:  # mcp 2
    from mcp.server.mcpserver import MCPServer as Server

server = Server("adder")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def fail() -> str:
    raise ValueError("no luck")


@server.tool()
def pids() -> str:
    """Of the server and of a child that it has started."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return f"{os.getpid()} {child.pid}"


@server.tool()
def secret() -> str:
    return os.environ.get("SECRET", "none") + os.environ.get("HIDDEN", "")


@server.tool()
def die() -> str:
    sys.stderr.write("I have had enough\n")
    sys.stderr.flush()
    os._exit(3)


@server.tool()
def hang() -> str:
    time.sleep(600)
    return "late"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run(transport="stdio")
    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"{listening.getsockname()[1]}\n")
    sys.stdout.flush()
    config = uvicorn.Config(server.streamable_http_app(), log_level="error")
    asyncio.run(uvicorn.Server(config).serve(sockets=[listening]))
