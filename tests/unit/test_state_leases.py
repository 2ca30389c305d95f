"""One writer per name: the second is told who, and whoever lost it finds out."""

import os
import re
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Timer

import pytest
from sqlalchemy import Engine, select, update

from agent_pipelines.errors import UserError
from agent_pipelines.state import leases
from agent_pipelines.state.engine import open_engine, write
from agent_pipelines.state.tables import leases as table


@pytest.fixture
def engine(state_url: str) -> Engine:
    return open_engine(state_url)


def held_by(engine: Engine, holder: str, *, until: timedelta = timedelta(minutes=5)) -> None:
    """As if another process had taken the lease."""
    with leases.hold(engine, "n"):
        pass
    with write(engine) as connection:
        connection.execute(update(table).values(holder=holder))
    held_until(engine, datetime.now(UTC) + until)


def held_until(engine: Engine, until: datetime) -> None:
    with write(engine) as connection:
        connection.execute(update(table).values(expires_at=until))


def test_the_second_is_told_who_holds_it_and_may_after_that(engine: Engine) -> None:
    with leases.hold(engine, "n") as first:
        with (
            pytest.raises(UserError, match=re.escape(leases.this_process())) as refused,
            leases.hold(engine, "n"),
        ):
            pass
        assert "wait for it" in refused.value.remedy
        with leases.hold(engine, "another"):
            pass
        first.renew()
    with leases.hold(engine, "n") as second:
        assert second.token > first.token


def test_it_is_given_back_when_the_holder_fails(engine: Engine) -> None:
    def fail() -> None:
        with leases.hold(engine, "n"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with leases.hold(engine, "n"):
        pass


def test_a_process_that_was_killed_holds_nobody_up(engine: Engine, state_url: str) -> None:
    code = (
        "import os, sys; from agent_pipelines.state import engine, leases;"
        "held = leases.hold(engine.open_engine(sys.argv[1]), 'n'); held.__enter__();"
        "os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, state_url], cwd=Path(__file__).parents[2], check=False
    )
    assert ended.returncode == -9
    with engine.connect() as connection:
        (expires,) = connection.scalars(select(table.c.expires_at))
    assert expires > datetime.now(UTC), "its lease has not run out"
    with leases.hold(engine, "n") as lease:
        assert lease.token == 2


def test_a_pid_that_was_given_to_another_process_is_a_dead_one(engine: Engine) -> None:
    held_by(engine, re.sub(r"\d+$", "1", leases.this_process()))
    with leases.hold(engine, "n"):
        pass


@pytest.mark.parametrize("where", ["another-host", f"{socket.gethostname()} pid:[1]"])
def test_a_holder_of_another_place_is_waited_for_until_it_renews_or_loses_it(
    engine: Engine, where: str
) -> None:
    """A pod that was killed; also one that has this machine's name, and process ids of its own."""
    holder = f"{where} pid {os.getpid()} started 1"
    held_by(engine, holder, until=timedelta(seconds=2))
    with leases.hold(engine, "n") as lease:
        assert lease.taken_over

    held_by(engine, holder, until=timedelta(seconds=30))
    until = datetime.now(UTC) + timedelta(seconds=40)
    renewal = Timer(1.5, held_until, (engine, until))
    renewal.start()
    with pytest.raises(UserError, match=re.escape(holder)), leases.hold(engine, "n"):
        pass
    renewal.join()


def test_one_that_is_not_over_soon_is_not_waited_for(engine: Engine) -> None:
    held_by(engine, "another-host pid 1 started 1", until=timedelta(minutes=5))
    with pytest.raises(UserError, match="another-host pid 1"), leases.hold(engine, "n"):
        pass


def test_whoever_lost_it_finds_out_and_does_not_take_it_from_the_next(engine: Engine) -> None:
    def lose_it() -> None:
        with leases.hold(engine, "n") as late:
            with write(engine) as connection:
                connection.execute(update(table).values(expires_at=datetime.now(UTC)))
            taken = leases.hold(engine, "n")
            with taken as next_one:
                with pytest.raises(leases.LeaseLostError, match="took over n"):
                    late.renew()
                next_one.renew()

    lose_it()


def test_a_late_holder_that_leaves_does_not_end_the_next_ones_lease(engine: Engine) -> None:
    late = leases.hold(engine, "n")
    late.__enter__()
    with write(engine) as connection:
        connection.execute(update(table).values(expires_at=datetime.now(UTC)))
    with leases.hold(engine, "n"):
        late.__exit__(None, None, None)
        with pytest.raises(UserError), leases.hold(engine, "n"):
            pass
