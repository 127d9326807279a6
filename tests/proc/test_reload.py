"""SIGHUP: secret, limits and log level are read again, and no channel is touched."""

from __future__ import annotations

import base64
import os
import signal
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml

from tests.faults.relay_traffic import (
    PATIENCE,
    SECRET,
    Load,
    RelayProgram,
    carries,
    pair_at,
    says_in_vain,
)
from tests.lab.whole_program import eventually
from tests.ports import free_port

of_any_size = pytest.mark.parametrize("workers", [1, 2])


class Settings:
    """A file for `udppunch run` with a relay, and its secret in another file."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.path = folder / "relay.yaml"
        self._secret_path = folder / "secret"
        self._relay = {
            "listen": f"127.0.0.1:{free_port()}",
            "workers": workers,
            "idle": "10min",
            "secret-file": str(self._secret_path),
        }

    def write(self, secret: bytes, level: str, channels: int) -> None:
        relay = {**self._relay, "max-channels": channels}
        content: Dict[str, Any] = {"roles": [{"relay": relay}], "log-level": level}
        self.path.write_text(yaml.safe_dump(content))
        self.path.chmod(0o600)
        self.write_secret(base64.b64encode(secret))

    def write_secret(self, text: bytes) -> None:
        self._secret_path.write_bytes(text)
        self._secret_path.chmod(0o600)

    def run(self, workers: int) -> RelayProgram:
        command = ("run", str(self.path))
        return RelayProgram(workers=workers, secret=None, level=None, command=command)


@of_any_size
def test_rereads_secret_limits_and_log_level(workers: int, tmp_path: Path) -> None:
    settings = Settings(tmp_path, workers)
    settings.write(SECRET, "info", channels=1)
    with settings.run(workers) as relay:
        one, other = pair_at(relay)
        assert says_in_vain(relay)
        relay.wait_event("full")
        assert not relay.count("joined")
        settings.write(b"another secret", "debug", channels=10)
        relay.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: not says_in_vain(relay, b"another secret"), PATIENCE), relay
        relay.wait_event("joined")
        assert says_in_vain(relay, SECRET)
        assert carries(one, other) and carries(other, one)
        assert not relay.count("restart")
        relay.assert_alive_and_sane()


def test_who_is_started_later_has_what_was_read_last(tmp_path: Path) -> None:
    settings = Settings(tmp_path, 2)
    settings.write(b"of the start", "info", channels=20)
    with settings.run(2) as relay:
        settings.write(SECRET, "info", channels=20)
        relay.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: not says_in_vain(relay, SECRET), PATIENCE), relay
        for name in ("worker 1", "worker 2", "registrar"):
            before = relay.pids()[name]
            os.kill(before, signal.SIGKILL)
            relay.wait_event("restart", process=name)
            assert eventually(lambda: relay.pids().get(name, before) != before, PATIENCE)  # noqa: B023
        assert all(says_in_vain(relay, b"of the start") for _ in range(8))
        assert eventually(lambda: not says_in_vain(relay, SECRET), PATIENCE), relay


BAD_FILES = {
    "no yaml": b"roles: [",
    "no such setting": b"roles: [{relay: {secrets: 1}}]",
    "no such level": b"{roles: [{relay: {}}], log-level: loud}",
    "empty": b"",
    "not text": b"\xff\xfe\0",
    "no date": b"x: 2024-13-45",
    "no number": b"x: !!int many",
    "deep": 5000 * b"[",
    "another role": b"roles: [{rendezvous: {}}]",
    "another address": b"roles: [{relay: {listen: ':1'}}]",
    "one more": b"roles: [{relay: {listen: ':1'}}, {relay: {listen: ':2'}}]",
}


@of_any_size
def test_rereads_what_is_wrong_and_goes_on(workers: int, tmp_path: Path) -> None:
    settings = Settings(tmp_path, workers)
    settings.write(SECRET, "info", channels=20)
    good = settings.path.read_bytes()
    with settings.run(workers) as relay:
        one, other = pair_at(relay)
        for told, bad in enumerate(BAD_FILES.values(), 1):
            settings.path.write_bytes(bad)
            assert_complains(relay, told)
        settings.path.write_bytes(good)
        settings.write_secret(b"#hush hush#")
        assert_complains(relay, len(BAD_FILES) + 1)
        settings.path.unlink()
        assert_complains(relay, len(BAD_FILES) + 2)
        assert carries(one, other) and carries(other, one)
        pair_at(relay)
        assert not relay.count("joined"), "the log level changed"
        assert "hush" not in str(relay)
        relay.assert_alive_and_sane()


def assert_complains(relay: RelayProgram, count: int) -> None:
    """By one more line, an error."""
    relay.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: len(_errors(relay)) >= count, PATIENCE), relay
    time.sleep(0.1)
    errors = _errors(relay)
    assert len(errors) == count and errors[-1].startswith("reload: "), relay
    assert errors[-1].endswith("all stays as it was")


def _errors(relay: RelayProgram) -> List[str]:
    return [event["message"] for event in relay.events if event["level"] == "error"]


@of_any_size
def test_rereads_again_and_again_under_load(workers: int, tmp_path: Path) -> None:
    settings = Settings(tmp_path, workers)
    settings.write(SECRET, "info", channels=20)
    with settings.run(workers) as relay, Load(relay.address, 8, 2000) as load:
        for number in range(100):
            settings.write(b"%d" % number, ("info", "warning")[number % 2], channels=number + 1)
            relay.process.send_signal(signal.SIGHUP)
            time.sleep(0.01)
        settings.write(b"the last", "info", channels=20)
        relay.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: not says_in_vain(relay, b"the last"), PATIENCE), relay
        load.finish()
        assert load.lost <= load.sent // 100, f"{load.lost} of {load.sent}"
        assert load.silent_flows() == 0
        assert not relay.count("restart")
        relay.assert_alive_and_sane()
