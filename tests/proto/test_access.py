"""Access lines: who is written of, how much of it, and that strangers do not fill a disk."""

from __future__ import annotations

import logging
from typing import Iterator, List, Optional

import pytest

from udppunch import address
from udppunch.notices import access_logger
from udppunch.proto.expose.access import AccessLog
from udppunch.proto.expose.tags import Connectee, Holder

PLACE = "/var/log/access.log"
BURST = 100
RATE = 10


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: List[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def taken(self) -> List[str]:
        lines = [record.getMessage() for record in self.records]
        self.records.clear()
        return lines


@pytest.fixture(params=["", PLACE])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lines(place: str) -> Iterator[Lines]:
    handler, logger = Lines(), access_logger(place)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def holder(number: int = 1, answered: bool = False) -> Holder:
    made = Holder(Connectee(address.pack("198.51.100.7", 4000 + number), b""), number, 50.0)
    made.answered = answered
    return made


def test_a_visit_is_two_lines_with_fields_for_machines(place: str, lines: Lines) -> None:
    log = AccessLog(place)
    visitor = holder(77, answered=True)
    log.came("service dns", visitor, 50.0)
    visitor.active, visitor.datagrams, visitor.octets = 61.26, 3, 300
    visitor.returned = (4, 4000)
    log.left("service dns", visitor, 400.0)
    came, left = lines.records
    assert came.getMessage() == "198.51.100.7:4077 came to service dns, tag 77"
    assert left.getMessage() == (
        "198.51.100.7:4077 left service dns, tag 77, after 11.3 s:"
        " 300 bytes in 3 datagrams from it, 4000 in 4 to it"
    ), "until it was heard last, not until its tag was taken away"
    assert (came.levelno, left.levelno) == (logging.INFO, logging.INFO)
    who = {"connectee": "198.51.100.7:4077", "tag": 77}
    assert (vars(came)["event"], vars(came)["fields"]) == ("came", who)
    assert (vars(left)["event"], vars(left)["fields"]) == ("left", {
        **who, "seconds": 11.3, "from_octets": 300, "from_datagrams": 3, "to_octets": 4000,
        "to_datagrams": 4,
    })  # fmt: skip


@pytest.mark.parametrize("wanted", [None, "/elsewhere"])
def test_nothing_is_written_where_it_is_not_wanted(
    wanted: Optional[str], place: str, lines: Lines
) -> None:
    log = AccessLog(wanted)
    log.came("the service", holder(), 0.0)
    log.left("the service", holder(answered=True), 0.0)
    assert lines.records == []


def test_strangers_are_written_of_so_often_and_who_was_answered_always(
    place: str, lines: Lines
) -> None:
    log = AccessLog(place)
    for number in range(1000):
        log.left("the service", holder(number, answered=True), 0.0)
    assert len(lines.taken()) == 1000
    for number in range(1000):
        log.came("the service", holder(number), 0.0)
    assert len(lines.taken()) == BURST, "which these have not spent"
    for number in range(1000):
        log.left("the service", holder(number), 0.0)
    assert lines.taken() == [], "what they do is all one account"
    log.left("the service", holder(answered=True), 0.0)
    assert len(lines.taken()) == 1
    for second in range(1, 4):
        for number in range(50):
            log.came("the service", holder(number), float(second))
            log.left("the service", holder(number), float(second))
        assert len(lines.taken()) == RATE
