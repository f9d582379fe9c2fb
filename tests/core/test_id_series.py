import os
from uuid import UUID

from broker.core.id_series import IdSeries


def test_an_id_has_the_shape_of_a_uuid_of_its_version():
    found = UUID(next(IdSeries("8").ids))
    assert (found.version, found.variant) == (8, "specified in RFC 4122")


def test_no_id_comes_twice():
    series = IdSeries("4")
    assert len({next(series.ids) for _ in range(100)}) == 100


def test_a_forked_process_has_ids_of_its_own():
    series = IdSeries("8")
    reading, writing = os.pipe()
    if not (pid := os.fork()):
        os.write(writing, next(series.ids).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    theirs = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert UUID(theirs)
    assert theirs[:23] != next(series.ids)[:23]
