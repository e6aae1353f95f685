"""A camera for tests: an HTTP server whose connections send what they are told to, made by PyAV."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest


@dataclass
class Connection:
    """What one connection sends: frames of a size and codec; then it ends, or hangs."""

    frames: int = 20
    size: tuple[int, int] = (96, 64)
    codec: str = "mpeg4"
    container: str = "mpegts"
    hangs: bool = False


@dataclass
class Camera:
    """Connections in turn; afterwards it answers 404."""

    connections: list[Connection]
    served: int = 0
    release: threading.Event = field(default_factory=threading.Event)

    def send(self, file: Any) -> None:
        import av

        one = self.connections[self.served - 1]
        with av.open(file, "w", format=one.container) as container:
            stream = container.add_stream(one.codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = *one.size, "yuv420p"
            stream.gop_size = 5
            stream.codec_context.time_base = Fraction(1, 25)
            for number in range(one.frames):
                picture = np.full((one.size[1], one.size[0], 3), (7 * number) % 256, np.uint8)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        if one.hangs:
            self.release.wait(20)


class _File:
    """What PyAV may write to: a socket that cannot seek."""

    def __init__(self, file: Any) -> None:
        self.write = file.write


@pytest.fixture
def serve() -> Iterator[Callable[..., str]]:
    """Serve connections, and give the address."""
    pytest.importorskip("av", reason="pip install 'lego-fusion[video]'")
    servers: list[tuple[ThreadingHTTPServer, Camera]] = []

    def start(*connections: Connection) -> str:
        camera = Camera(list(connections))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                camera.served += 1
                if camera.served > len(camera.connections):
                    self.send_error(404)
                    return
                self.send_response(200)
                self.end_headers()
                try:
                    camera.send(_File(self.wfile))
                except (OSError, ValueError):  # the other side left
                    return

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        servers.append((server, camera))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/live"

    yield start
    for server, camera in servers:
        camera.release.set()
        server.shutdown()
        server.server_close()


@pytest.fixture
def connection() -> type[Connection]:
    return Connection
