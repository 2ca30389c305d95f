"""What everything that is served listens on."""

import asyncio
import socket

import pytest

from agent_pipelines.errors import UserError
from agent_pipelines.listening import listen


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_what_is_answered_is_not_held_back(host: str) -> None:
    """Nagle's algorithm is off in each connection that asyncio accepts."""

    async def main() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connection = writer.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen(host, 0, who="the test", remedy="") as listener:
            async with await asyncio.start_server(serve, sock=listener):
                _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
                try:
                    return await asyncio.wait_for(accepted, 10)
                finally:
                    writer.close()

    assert asyncio.run(main()) == 1


def test_a_port_that_is_taken_is_named_with_a_way_out() -> None:
    with listen("127.0.0.1", 0, who="one", remedy="") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"another cannot listen on 127.0.0.1 port {port}: "):
            listen("127.0.0.1", port, who="another", remedy="name another port")
