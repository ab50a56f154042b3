"""A tiny replica for the tests of the proxy: says what it received. `echo.py SOCKET NAME [--gray | --lose | --die]`.

`--gray`: passes its health check and answers everything else with 500. `--lose`: reads a request and hangs up. `--die`: reads a request and
ends. Each request that arrives is also written to the file `<SOCKET>.log`, so that a test can count attempts.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path


async def main(path: str, name: str, mode: str) -> None:
    log = Path(path + ".log")

    def note(line: str) -> None:
        with log.open("a") as lines:
            lines.write(line)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                method, target, _ = lines[0].split(" ")
                headers = [line.split(": ", 1) for line in lines[1:] if line]
                lengths = [int(value) for key, value in headers if key.lower() == "content-length"]
                body = await reader.readexactly(lengths[0] if lengths else 0)
                healthy = target == "/health/ready"
                if not healthy:
                    note(f"{method} {target}\n")
                if mode == "--die" and not healthy:
                    os._exit(1)
                if mode == "--lose" and not healthy:
                    break
                status = 500 if mode == "--gray" and not healthy else 200
                seen = {"replica": name, "method": method, "path": target, "headers": headers, "bytes": len(body)}
                answer = json.dumps(seen).encode()
                writer.write(
                    f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}\r\n\r\n".encode()
                    + (b"" if method == "HEAD" else answer)
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, path)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else ""))
