"""Ports are different, free, and the same again where they can be."""

import socket
from pathlib import Path

from agent_pipelines.local import ports


def test_ports_are_all_different_and_runs_are_neighbours() -> None:
    found = ports.free(1, 2, 3, 1)
    assert len(set(found)) == len(found) == 7
    assert found[2] == found[1] + 1
    assert found[3:6] == list(range(found[3], found[3] + 3))
    for port in found:
        with socket.socket() as listener:
            listener.bind((ports.HOST, port))


def test_the_same_ports_come_back_until_one_of_them_is_taken(tmp_path: Path) -> None:
    before = ports.stable(tmp_path, "echo", 1, 2)
    assert ports.stable(tmp_path, "echo", 1, 2) == before
    with socket.socket() as taken:
        taken.bind((ports.HOST, before[1]))
        taken.listen()
        assert not set(ports.stable(tmp_path, "echo", 1, 2)) & set(before)


def test_a_spoilt_note_is_as_good_as_none(tmp_path: Path) -> None:
    ports.stable(tmp_path, "echo", 1)
    for spoilt in ("", "{}", "[1]", '[[1], ["x"]]', "[[1], [99999999]]", "[[1], null]"):
        (tmp_path / "parts" / "echo.ports.json").write_text(spoilt)
        assert len(ports.stable(tmp_path, "echo", 1)) == 1
