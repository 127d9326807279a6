"""The manual pages, README and `--help` say what the program does, and the same as each other."""

from __future__ import annotations

import ast
import base64
import dataclasses
import logging
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Set, Tuple

import pytest

import udppunch
from udppunch import address, check, config, demo, errors, originals, stats, usage
from udppunch.check.output import Status
from udppunch.config import parse, settings
from udppunch.net import output
from udppunch.notices import access_logger
from udppunch.probe import statistics
from udppunch.proc import control as control_socket
from udppunch.proc import pipe, supervisor
from udppunch.proto import cookie, destination, register, reliability
from udppunch.proto.chat import conversation
from udppunch.proto.chat import dialogue as chat_dialogue
from udppunch.proto.expose import access, admission, eviction, keepalives, tags
from udppunch.proto.holepunch import dialogue as peer_dialogue
from udppunch.proto.holepunch import exchange
from udppunch.proto.holepunch import registry as names
from udppunch.proto.limiter import Allowance
from udppunch.proto.puncher import (
    asking,
    checks,
    consent,
    handshake,
    opening,
    registration,
    registry,
)
from udppunch.proto.relay.pairing import Outcome
from udppunch.proto.terminal import pipe as chat_pipe
from udppunch.role import chat as chatting
from udppunch.role import chat_server, peer
from udppunch.role import expose as exposing
from udppunch.role import holepunch as holepunch_server
from udppunch.wire import (
    bincode,
    chat,
    control,
    holepunch,
    marks,
    proxy,
    puncher,
    registrar,
    relay,
    secrecy,
    stretch,
)
from udppunch.wire import expose as expose_wire

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "man"
PAGES = {
    "run": "udppunch.1",
    "serve": "udppunch-serve.1",
    "connect": "udppunch-connect.1",
    "peer": "udppunch-peer.1",
    "chat": "udppunch-chat.1",
    "demo": "udppunch-demo.1",
    "rendezvous": "udppunch-rendezvous.8",
    "relay": "udppunch-relay.8",
    "helper": "udppunch-helper.8",
    "expose": "udppunch-expose.1",
    "check": "udppunch-check.1",
    "stats": "udppunch-stats.1",
}
# The commands that take settings of the process, all of them or some.
PROCESSES = [*config.ROLES, *config.TALKS, "run"]
CHECKED = {name: setting for each in check.SETTINGS.values() for name, setting in each.items()}
OF_COMMANDS = {**config.ROLES, **config.TALKS}
SETTINGS = {**OF_COMMANDS, "run": {}, "check": CHECKED, "stats": stats.SETTINGS}
ALL_PAGES = sorted(path.name for path in MANUAL.iterdir())
# What --help says in words, and the setting's own default for it.
IN_WORDS: Dict[str, Optional[str]] = {"any": None, "none": None, "off": "False"}
IN_WORDS["use them where they work"] = IN_WORDS["a stream"] = "False"
IN_WORDS["answer them at LISTEN"] = "False"
IN_WORDS["asked"] = None
IN_WORDS["one a processor"] = None
IN_WORDS[f"in {control_socket.FOLDER}"] = None

MARK = marks.new(bytes(marks.RANDOM))
LOOPBACK = address.pack("127.0.0.1", 9)
MAGIC = relay.MAGIC.hex(" ").upper()
RELAY_IDLE = parse.parse_time(config.ROLES["relay"]["idle"].default or "")
KEEPALIVE = parse.parse_time(config.ROLES["expose"]["keepalive"].default or "")
NEVER_PEERS = ", ".join(map(str, sorted(address.ANSWERING_PORTS))).rsplit(", ", 1)
NEVER_CONNECTEES = ", ".join(map(str, sorted(address.ANSWERING_PORTS))).rsplit(", ", 1)
IPV4_HEADER = proxy.header(LOOPBACK, LOOPBACK)
IPV6_HEADER = proxy.header(address.pack("::1", 9), LOOPBACK)
RETRY = len(expose_wire.encode(expose_wire.Retry(2**63 - 1), bytes(32)))
KEEPALIVE_ALONE = len(expose_wire.encode(expose_wire.Keepalive(), bytes(32)))
QUESTION = len(expose_wire.encode(expose_wire.Keepalive(expose_wire.ASKS_STATISTICS), bytes(32)))
# The answers that are longer than what they answer, each with that.
LARGER_ANSWERS = (
    f"{RETRY} bytes for {KEEPALIVE_ALONE} and {expose_wire.STATISTICS_LENGTH} for {QUESTION}"
)


KEYS = secrecy.KeyPair(bytes(secrecy.PRIVATE_LENGTH))
FAR = address.pack("255.255.255.255", 65535)
SHORTEST_REQUEST = len(holepunch.encode(holepunch.Request("a")))
LONGEST_INITIATE = len(holepunch.encode(holepunch.Initiate("n" * holepunch.NAME_MAXIMUM, FAR)))
ID = chat.peer_id(KEYS.public)
ESTABLISH = len(chat.encode(chat.Message("establish", ID, data=ID)))
LONGEST_ESTABLISHED = chat.SEAL + len(
    chat.encode(chat.of_established(chat.Established(ID, "\U0001f37b" * chat.NAME_MAXIMUM, FAR)))
)
TIMES = {3: "three", 4: "four", 5: "five"}
PARTS = {2: "half", 3: "third", 4: "quarter"}
HOURS = {1800.0: "half an hour", 3600.0: "an hour"}


class Option(NamedTuple):
    name: str
    argument: str
    default: str


def options_in_help(command: str) -> Set[Option]:
    # As docopt reads them, which loses the default of an option without argument.
    found = re.findall(
        r"^  (?:-\w )?(--[\w-]+)(?: ([A-Z=]+))? {2,}.*?(?:\[default: (.*)\])?$",
        usage.COMMANDS[command],
        re.MULTILINE,
    )
    return {Option(*groups) for groups in found}


def arguments_in_help(command: str) -> Set[str]:
    line = re.search(rf"^  udppunch {command} (.*)$", usage.COMMANDS[command], re.MULTILINE)
    assert line
    return set(re.findall(r"\b[A-Z]+\b", line[1]))


def source(page: str) -> str:
    """The page without the escapes that tell a minus from a hyphen."""
    text = (MANUAL / page).read_text(encoding="utf-8")
    return text.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\(aq", "'").replace(r"\(dq", '"')


def section(page: str, title: str, kind: str = "Sh") -> str:
    end = r"^\.Sh " if kind == "Sh" else r"^\.S[hs] "
    found = re.search(rf"^\.{kind} {title}\n(.*?)(?={end}|\Z)", source(page), re.M | re.S)
    assert found, f"{page} has no {title}"
    return found[1]


def items(text: str) -> Dict[str, str]:
    """The entries of the lists: heading to body, where an inner list is left to its outer."""
    found = re.findall(r"^\.It (.*)\n((?:(?!\.It |\.El).*\n)*)", text, re.MULTILINE)
    return dict(found)


def default_in(body: str) -> str:
    found = re.search(r"^Default: (.*)$", body, re.MULTILINE)
    return found[1] if found else ""


def options_in_page(page: str) -> Set[Option]:
    found = set()
    for heading, body in items(section(page, "DESCRIPTION")).items():
        option = re.fullmatch(r"Fl (?:\w , )?-([\w-]+)(?: Ar ([\w=]+))?", heading)
        if option:
            found.add(Option(f"--{option[1]}", option[2] or "", default_in(body)))
    return found


def options_named(page: str) -> Set[str]:
    text = source(page)
    long = set(re.findall(r"(?<![\w-])--([a-z][\w-]+)", text))
    return {f"--{name}" for name in long | set(re.findall(r"\bFl(?: \w [,|])? -([\w-]+)", text))}


# Options


@pytest.mark.parametrize("command", usage.COMMANDS)
def test_page_has_the_options_of_help_with_their_defaults(command: str) -> None:
    said = options_in_help(command)
    assert len(said) == usage.COMMANDS[command].count("\n  -")
    general = {Option("--version", "", "")} if command == "run" else set()
    assert options_in_page(PAGES[command]) == said | general


@pytest.mark.parametrize("command", usage.COMMANDS)
def test_synopsis_has_the_options_of_help(command: str) -> None:
    synopsis = section(PAGES[command], "SYNOPSIS")
    shown = set(re.findall(r"^\.(?:Op )?Fl -([\w-]+)(?: Ar ([\w=]+))?$", synopsis, re.MULTILINE))
    said = {(o.name[2:], o.argument) for o in options_in_help(command) if o.name != "--help"}
    assert shown == said


@pytest.mark.parametrize("page", ALL_PAGES)
def test_page_names_no_option_that_does_not_exist(page: str) -> None:
    known = {option.name for command in usage.COMMANDS for option in options_in_help(command)}
    if page == PAGES["relay"]:
        known |= set(originals._RELAY)
    assert options_named(page) <= known | {"--version", "--now"}  # which is systemctl's


@pytest.mark.parametrize("command", sorted(SETTINGS))
def test_help_has_the_defaults_of_the_settings(command: str) -> None:
    settings = {**SETTINGS[command], **(config.PROCESS if command in PROCESSES else {})}
    if command == "chat":
        level = settings["log-level"]
        settings["log-level"] = dataclasses.replace(level, default=quieter_level())
    for option in options_in_help(command) - {Option("--help", "", "")}:
        if option.name[2:] not in settings:
            # A switch that says what is printed, or how.
            assert (option.argument, option.default) == ("", "off")
            continue
        setting = settings[option.name[2:]]
        # A default in words that can also be given is the setting's own.
        said = {option.default, IN_WORDS.get(option.default, option.default)}
        assert setting.default in said, option


def quieter_level() -> str:
    """What is logged of a chat, since what there is to be said is on the screen."""
    program = (ROOT / "udppunch/cli.py").read_text(encoding="utf-8")
    [level] = re.findall(r'setdefault\("log-level", "(\w+)"\)', program)
    return level


@pytest.mark.parametrize("command", OF_COMMANDS)
def test_each_setting_is_an_option_or_an_argument(command: str) -> None:
    options = {option.name[2:] for option in options_in_help(command)}
    assert set(OF_COMMANDS[command]) == options - {"help"} - set(config.PROCESS) | {
        argument.lower() for argument in arguments_in_help(command)
    }


@pytest.mark.parametrize("command", sorted(set(usage.COMMANDS) - {"run", "demo"}))
def test_page_has_the_arguments_of_help(command: str) -> None:
    arguments = arguments_in_help(command)
    assert arguments
    shown = items(section(PAGES[command], "DESCRIPTION"))
    assert {f"Ar {argument}" for argument in arguments} <= set(shown)


@pytest.mark.parametrize("role", ["rendezvous", "relay"])
def test_default_of_listen(role: str) -> None:
    default = config.ROLES[role]["listen"].default
    assert default
    body = items(section(PAGES[role], "DESCRIPTION"))["Ar LISTEN"]
    assert default_in(body) == default
    assert re.search(rf"{re.escape(default)}(, .*,)? if none is given", usage.COMMANDS[role])


def test_options_of_udp_relay_are_taken_as_the_page_says() -> None:
    text = section(PAGES["relay"], "Options of udp-relay", "Ss")
    rows = re.findall(r"^\.It Fl (-[\w-]+ (?:Ar N|Cm \d)) Ta (.*)$", text, re.MULTILINE)
    assert {row.split()[0] for row, _ in rows} == {
        name[1:] for name in [*originals._RELAY, "--log-level"]
    }
    for theirs, ours in rows:
        given = f"-{theirs}".replace("Ar N", "7").replace("Cm ", "")
        expected = ours.replace("Pf : Ar N", ":7").replace("Fl ", "-").replace("Ar N", "7")
        expected = expected.replace(" Ns ", "").replace("Cm ", "").replace("ignored", "")
        assert originals.relay_words(given.split()) == expected.split(), theirs
        assert originals.relay_words([given.replace(" ", "=")]) == expected.split(), theirs


def test_all_commands_are_named() -> None:
    """In `udppunch --help` and in udppunch(1)."""
    assert set(re.findall(r"^  ([a-z]+)  ", usage.TOP, re.MULTILINE)) == set(usage.COMMANDS)
    synopsis = section("udppunch.1", "SYNOPSIS")
    assert set(re.findall(r"^\.Cm ([a-z]+)", synopsis, re.MULTILINE)) == set(usage.COMMANDS)
    described = items(section("udppunch.1", "DESCRIPTION").partition("\n.Ss ")[0])
    named = {heading[6:] for heading in described if heading.startswith("Nm Cm ")}
    assert named == set(usage.COMMANDS)


def test_classes_of_the_demo() -> None:
    shown = re.findall(r"^\.It Cm (.*)$", section(PAGES["demo"], "DESCRIPTION"), re.MULTILINE)
    assert {name for line in shown for name in line.split(" , ")} == set(demo.CLASSES)


# The file


def settings_in_page(text: str) -> Dict[str, str]:
    named = {head[3:]: body for head, body in items(text).items() if head.startswith("Cm ")}
    return {name: default_in(body) for name, body in named.items()}


def defaults_in_the_file(command: str, known: Mapping[str, settings.Setting]) -> Dict[str, str]:
    """How the page writes the defaults: where there is none, in the words of `--help`."""
    in_help = {option.name[2:]: option.default for option in options_in_help(command)}
    in_help = {name: "" if said == "none" else said for name, said in in_help.items()}
    return {
        name: {"False": "false", None: in_help.get(name, "")}.get(setting.default, setting.default)
        for name, setting in known.items()
    }


def test_file_has_the_settings_of_the_process() -> None:
    text = section("udppunch.yaml.5", "DESCRIPTION").partition("\n.Ss ")[0]
    expected = defaults_in_the_file("run", config.PROCESS)
    assert settings_in_page(text) == {**expected, "roles": ""}


@pytest.mark.parametrize("role", config.ROLES)
def test_file_has_the_settings_of_a_role(role: str) -> None:
    text = section("udppunch.yaml.5", role, "Ss")
    assert settings_in_page(text) == defaults_in_the_file(role, config.ROLES[role])
    for name, setting in config.ROLES[role].items():
        required = setting.default is None and not setting.optional
        assert ("\nRequired.\n" in items(text)[f"Cm {name}"]) == required, name


def test_file_has_no_other_role() -> None:
    titles = re.findall(r"^\.Ss (.*)$", source("udppunch.yaml.5"), re.MULTILINE)
    assert titles == list(config.ROLES)


def load_example(
    number: int, setting: str, kept: Path
) -> Tuple[List[Tuple[str, Any]], config.ProcessConfig]:
    """An example of the page, where `setting`, if any, names the file `kept` instead."""
    examples = re.findall(
        r"\.Bd -literal.*?\n(.*?)\.Ed", section("udppunch.yaml.5", "EXAMPLES"), re.DOTALL
    )
    text, files = re.subn(rf"{setting}: .*", f"{setting}: {kept}", examples[number])
    assert files or not setting
    text = text if setting else examples[number]
    file = kept.with_suffix(".yaml")
    file.write_text(text)
    roles, process = config.load_file(str(file), {})
    return roles, config.process_config(process, {})


def test_example_of_the_file_loads(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("a key\n")
    roles, process = load_example(0, "key-file", key)
    assert [name for name, _ in roles] == ["serve", "serve", "connect"]
    assert [role.key for _, role in roles] == [b"a key", b"what the players were told", b"a key"]
    assert process.log_level == "info"


def test_example_of_a_relay_in_the_file_loads(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(base64.b64encode(b"a secret"))
    [(name, one)], process = load_example(1, "secret-file", secret)
    assert (name, one.secret) == ("relay", b"a secret")
    assert (one.max_channels, one.bandwidth, one.coalesce) == (1000, 5e6, pytest.approx(200e-6))
    assert process.metrics == address.pack("127.0.0.1", 9100)


def test_examples_of_a_helper_and_an_exposer_in_the_file_load(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("a password\n")
    key = expose_wire.derive_key(b"a password")
    [(name, one)], _ = load_example(2, "password-file", password)
    assert (name, one.key, one.max_clients) == ("helper", key, 1000)
    assert one.name == (
        ("game", address.pack("::", 27015)),
        ("dns", address.pack("192.0.2.1", 53)),
    )
    [(name, one)], _ = load_example(3, "password-file", password)
    assert (name, one.key, one.name) == ("expose", key, "game")
    assert [str(helper) for helper in one.helper] == [
        "one.example.org:51820",
        "two.example.org:51820",
    ]


def test_example_of_a_rendezvous_in_the_file_loads(tmp_path: Path) -> None:
    roles, _ = load_example(4, "", tmp_path / "rendezvous")
    assert [(name, len(one.listen)) for name, one in roles] == [
        ("rendezvous", 1),
        ("holepunch", 1),
        ("chat", 2),
    ]


def test_mistake_in_the_file_is_reported_as_shown(tmp_path: Path) -> None:
    file = tmp_path / "udppunch.yaml"
    role = '{serve: {forward: ":1", rendezvous: ":2", key: k, idle: %s}}'
    file.write_text(f"roles: [{role % '1h'}, {role % 'long'}]")
    with pytest.raises(errors.ConfigError) as raised:
        config.load_file(str(file), {})
    shown = " ".join(section("udppunch.yaml.5", "DIAGNOSTICS").split())
    assert str(raised.value).replace(f"{tmp_path}/", "") in shown


# What else the pages say


def log_lines() -> Iterator["re.Pattern[str]"]:
    """Every string of the program that may be a line of its log.

    {} and %s in it stand for anything.
    """
    for path in sorted((ROOT / "udppunch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts: List[ast.expr] = []
            if isinstance(node, ast.JoinedStr):
                parts = node.values
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node]
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "%s" for p in parts)
            if len(text.replace("%s", "")) >= 8:
                yield re.compile(".+".join(map(re.escape, text.split("%s"))))


@pytest.mark.parametrize("page", sorted(set(PAGES.values()) - {PAGES["demo"]}))
def test_diagnostics_are_lines_of_the_program(page: str) -> None:
    lines = list(log_lines())
    shown = items(section(page, "DIAGNOSTICS"))
    assert shown
    for line in shown:
        # Some lines begin with who says it, or whom it concerns, and are strings from there.
        said = re.sub(r"^(PROCESS|relay:|helper:) ", "", line)
        assert any(pattern.match(text) for pattern in lines for text in (line, said)), line


def test_exit_statuses_are_those_of_the_program() -> None:
    used = set()
    for path in (ROOT / "udppunch").rglob("*.py"):
        if path.name != "errors.py":
            used |= set(re.findall(r"\bEX_[A-Z]+", path.read_text(encoding="utf-8")))
    numbers = {getattr(errors, name) for name in used} | {errors.EX_USAGE, errors.EX_CONFIG, 0}
    assert statuses_in_page("udppunch.1") == numbers


def test_exit_statuses_of_check_and_stats() -> None:
    assert statuses_in_page(PAGES["check"]) == {int(status) for status in Status}
    program = "".join(p.read_text("utf-8") for p in (ROOT / "udppunch/stats").glob("*.py"))
    numbers = {getattr(errors, name) for name in re.findall(r"\bEX_[A-Z]+", program)}
    numbers |= {0, errors.EX_USAGE, errors.EX_OSERR, errors.EX_NOINPUT}
    assert statuses_in_page(PAGES["stats"]) == numbers


@pytest.mark.parametrize("command", config.TALKS)
def test_exit_statuses_of_those_who_talk(command: str) -> None:
    assert statuses_in_page(PAGES[command]) == {0, peer._FAILED, pipe._FAILED}


def statuses_in_page(page: str) -> Set[int]:
    return {int(item) for item in items(section(page, "EXIT STATUS"))}


class Counted(NamedTuple):
    """Where a role counts, what it counts by names that are not in these files, and where its
    page says so."""

    page: str
    files: Tuple[str, ...]
    named: Set[str]
    titles: Tuple[str, ...] = ("Counters",)


COUNTERS = {
    "relay": Counted(
        "relay",
        ("role/relay.py", "proto/relay/registrar.py", "proc/worker.py"),
        {f"handshakes: {outcome.value}" for outcome in Outcome},
    ),
    "helper": Counted(
        "helper",
        (
            "role/helper.py",
            "proto/expose/service.py",
            "proto/expose/publishing.py",
            "proc/worker.py",
        ),
        {
            f"dropped: {kind.value}"
            for kind in admission.Kind
            if kind.value not in expose_wire.STATISTICS
        },
    ),
    "expose": Counted("expose", ("role/expose.py",), set()),
    "rendezvous": Counted(
        "rendezvous",
        ("role/rendezvous.py", "proto/gate.py", "proto/stun/service.py"),
        {outcome.value for outcome in registry.Registered},
        ("Counters", "Counters of keys"),
    ),
    "holepunch": Counted(
        "rendezvous",
        ("role/holepunch.py", "proto/gate.py"),
        set(),
        ("Counters", "Counters of names"),
    ),
    "chat": Counted(
        "rendezvous",
        ("role/chat_server.py", "proto/gate.py"),
        set(),
        ("Counters", "Counters of ids"),
    ),
}


@pytest.mark.parametrize("role", COUNTERS)
def test_counters_are_those_of_the_program(role: str) -> None:
    page, files, named, titles = COUNTERS[role]
    program = "".join((ROOT / "udppunch" / f).read_text(encoding="utf-8") for f in files)
    counted = named | set(re.findall(r'(?:counters|lost)\["([^"]+)"\]', program))
    reasons = re.findall(
        r'(?:_drop\(\s*|\.drop\(f?|return |now\) else |refusal = |refusal or )"([^"]+)"', program
    )
    counted |= {f"dropped: {reason}".replace("{error}", "REASON") for reason in reasons}
    shown = [heading for title in titles for heading in items(section(PAGES[page], title, "Ss"))]
    assert {name for heading in shown for name in heading[3:].split(" , ")} == counted


def test_statistics_of_a_helper_are_those_of_the_wire() -> None:
    shown = items(section(PAGES["stats"], "The statistics of a helper", "Ss"))
    named = [name for heading in shown for name in heading[3:].split(" , ")]
    assert sorted(named) == sorted(expose_wire.STATISTICS)


def test_access_lines_are_as_shown() -> None:
    lines: List[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = access_logger("")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        holder = tags.Holder(tags.Connectee(address.pack("198.51.100.7", 43021), b""), 49414, 0.0)
        holder.active, holder.datagrams, holder.octets, holder.returned = 1.2, 3, 30, (3, 36)
        log = access.AccessLog("")
        log.came("the service", holder, 0.0)
        log.left("the service", holder, 300.0)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    shown = words(section(PAGES["helper"], "The access log", "Ss"))
    assert len(lines) == 2
    for line in lines:
        assert re.search(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ {re.escape(line)}", shown), line


def test_options_of_udpexposer_are_taken_as_the_page_says() -> None:
    options = re.findall(
        r"^  -(\w) --[\w-]+(?: ([A-Z]+))? {2,}.*?(?:\[default: (.*)\])?$",
        usage.UDPEXPOSER,
        re.MULTILINE,
    )
    assert options.pop()[0] == "h"
    assert len(options) == usage.UDPEXPOSER.count("\n  -") - 1
    shown = items(section("udppunch.1", "The command line of udpexposer", "Ss"))
    assert {heading: default_in(body) for heading, body in shown.items()} == {
        f"Fl {letter}" + (f" Ar {value}" if value else ""): default
        for letter, value, default in options
    }


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_environment_is_the_one_that_is_read(page: str) -> None:
    program = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "udppunch").rglob("*.py"))
    for name in re.findall(r"^\.(?:It )?Ev (.*)$", source(page), re.MULTILINE):
        for one in re.findall(r"[A-Z_]{4,}", name):
            assert f'"{one}"' in program, one


# Sentences of the pages with the numbers that the program has.
PROTOCOLS_FIGURES = (
    f"a key has 1 to {puncher.KEY_MAXIMUM}.",
    f"rendezvous's port is {parse.RENDEZVOUS_PORT}.",
    f"{marks.MAGIC.hex(' ').upper()} || version {marks.VERSION:02} ||",
    f"random ({marks.RANDOM}) {marks.LENGTH} bytes",
    f"other port (2) {len(puncher.encode(puncher.Ok(MARK, LOOPBACK, 1))) - 1} bytes",
    f"filled up with zeros to {puncher.PADDED} bytes",
    f"mac (16) {control.CONTROL_LENGTH} bytes",
    f"KeepAlive, each {registration.KEEPALIVE:g} s",
    f"after Ok each {registration.REFRESH:g} s",
    f"After {asking.SILENT_AFTER:g} s of silence",
    f"its own was silent for {registry.GIVES_WAY:g} s",
    f"forgets that after {registry.EXPIRES:g} s",
    f"again within {registry.REMEMBERED:g} s gets the same answer",
    f"no second within {registry.DUPLICATE_WITHIN:g} s",
    f"for more than {registry.PUNCH_LOST_AFTER:g} s, its Punch is sent again",
    f"for {consent.ASK_AFTER:g} s while the application waits",
    f"silent for {consent.LEGACY_SILENCE:g} s is forgotten",
    f"was not for {consent.LEGACY_UNANSWERED:g} s is punched anew",
    f"waits for that, or for {handshake.CLIENT_PAUSE:g} s",
    f"relay's port is {parse.RELAY_PORT}.",
    f"magic {MAGIC} || length (2) || flags (2) || guid ({relay.GUID})"
    f" || mac ({relay.MAC}) || padding {relay.HEADER} bytes at least",
    f"magic {MAGIC} || reserved (4) || guid ({relay.GUID})"
    f" || padding {relay.OLD_HEADER} bytes at least",
    f"ends in {relay.CHECK_MARK.hex(' ').upper()}.",
    f"the whole datagram with {relay.MAC} zeros for the mac",
    f"one that is published: {base64.b64encode(relay.DEFAULT_SECRET).decode()} ",
    f"passed on, up to {registrar.MOST_CARRIED} bytes",
    f"nothing for -idle ({RELAY_IDLE:g} s) is forgotten",
    f"A handshake from port {NEVER_PEERS[0]} or {NEVER_PEERS[1]} is dropped.",
    f"sends one each -keepalive ({KEEPALIVE:g} s)",
    f"silent for -idle ({config.ROLES['helper']['idle'].default})",
    f"Tags 0 and {expose_wire.NEVER_A_TAG:04X} are never given",
    f"A newcomer from port {NEVER_CONNECTEES[0]} or {NEVER_CONNECTEES[1]} is dropped.",
    f'{{"alg":"HS256"}} {expose_wire.SIGNED.decode()}',
    f"password, version {expose_wire._VERSION:X}, with the salt .Ql {expose_wire._SALT.decode()} ,"
    f" {expose_wire._PASSES} passes, {expose_wire._KIB} KiB, {expose_wire._LANES} lanes and a"
    f" length of {expose_wire._KEY_LENGTH} bytes.",
    f"Claims have {expose_wire.LONGEST_CLAIMS} bytes at most.",
    f"of {expose_wire.NAME_MAXIMUM} bytes at most, for a service",
    f"good for {cookie._LASTS} s and from the address",
    f'{{"nonce":null}} again after {keepalives._FIRST_GAP:g} s',
    f"Retry {keepalives._MOST_PROOFS} times at most",
    f"The nonce {expose_wire.ASKS_STATISTICS:X},",
    f"{len(expose_wire.STATISTICS)} integers of 8 bytes each,"
    f" {expose_wire.STATISTICS_LENGTH} bytes, in this order: {' '.join(expose_wire.STATISTICS)}",
    f"{proxy.SIGNATURE.hex(' ').upper()} || {IPV4_HEADER[12]:X} || family (1)",
    f"destination port (2) {len(IPV4_HEADER)} bytes",
    f"family is {IPV4_HEADER[13]:X} for IPv4 and {IPV6_HEADER[13]:X} for IPv6,"
    f" where addresses have 16 bytes and all has {len(IPV6_HEADER)};",
    f"with {LARGER_ANSWERS}.",
    f"so {admission._LARGER_ANSWERS:g} times a second for a /24 or /56 at most,"
    f" {2 * admission._LARGER_ANSWERS:g} times at first",
)
HOLEPUNCH_FIGURES = (
    f"The server's port is {parse.HOLEPUNCH_PORT}.",
    f"is one byte up to {bincode._ONE_BYTE:X};",
    f"a name has 1 to {holepunch.NAME_MAXIMUM}, a text {holepunch.TEXT_MAXIMUM} at most.",
    f"with zeros to {holepunch.PADDED} bytes; a shorter one is dropped. To them",
    f"after RegisterAck each {peer_dialogue.REFRESH:g} s.",
    f"kept from others for {names.GIVES_WAY:g} s; any is forgotten after {names.EXPIRES:g} s.",
    f"{stretch._STRETCH:02X} n (4) || bytes Ta Stretch Ta of the input, 1 to {stretch.MOST} bytes"
    f" {stretch._ACK:02X} n (4) Ta Ack Ta n has come {stretch._END:02X} n (4) Ta End Ta",
    f"{stretch._RAW:02X} bytes Ta Raw Ta a datagram, 0 to {stretch.MOST} bytes",
    f"RFC 6298, {reliability._FIRST_PATIENCE:g} s at first, {reliability._LEAST_PATIENCE:g} s to"
    f" {reliability._LONGEST_PATIENCE:g} s then; {reliability._FIRST_WINDOW:g} may be on their way"
    f" at first, {reliability.WINDOW} at most.",
    f"it gives {address.text(control.CONTENT)} for an address",
    f"reads {holepunch.BUFFER} bytes, and ignores",
    f"none to a second Register within {holepunch_server._DUPLICATE_WITHIN:g} s.",
    f"at {opening._PAUSE:g} s after Initiate with hop limit {opening._OPENER_TTL}, at"
    f" {opening._PAUSE + opening._OPENER_HOLD:g} s, and then each second,",
    f"What was silent for {peer._HABIT.patience:g} s is lost.",
)
GREETING = len(chat_dialogue.Dialogue("a", MARK, KEYS, bytes, 0.0)._greeting())
CHAT_WIRE_FIGURES = (
    f"The server's port is {parse.CHAT_PORT}.",
    f"Datagrams have {chat.LARGEST} bytes at most.",
    f"A username has 1 to {chat.NAME_MAXIMUM} characters.",
    f'HMAC-SHA-512/256("{chat._ID_KEY.decode()}", public key ({chat.KEY_LENGTH}))',
    f"nonce ({secrecy.NONCE_LENGTH}) || ciphertext || tag ({secrecy._TAG_LENGTH})",
    f"in decimal digits, good for {cookie._LASTS} s",
    f"greeting has {GREETING} bytes, register and establish have {chat.PADDED}, connect has"
    f" {chatting._GREETING}.",
    f"once registered, register each {chat_dialogue.REFRESH:g} s.",
    f"gets no answer for {chat_dialogue._SILENT_AFTER:g} s, all begins anew.",
    f"without one; any is forgotten after {chat_server._EXPIRES:g} s.",
    f"times 2^{conversation._LINES_BITS}, plus",
    f"of the last {conversation._MOST_NONCES},",
    f"at {opening._PAUSE:g} s after establish with hop limit {opening._OPENER_TTL}, at"
    f" {opening._PAUSE + opening._OPENER_HOLD:g} s, and {TIMES[chatting._HABIT.most - 1]} times"
    f" more, {chatting._HABIT.gap:g} s apart;",
    f"Connect goes on each {chatting._GREETED_EACH:g} s; what was silent for"
    f" {chatting._HABIT.patience:g} s is lost.",
)
RENDEZVOUS_FIGURES = (
    f"UDP port {parse.RENDEZVOUS_PORT}, {parse.HOLEPUNCH_PORT} or {parse.CHAT_PORT}.",
    f"register each {peer_dialogue.REFRESH:g} seconds.",
    f"free {names.GIVES_WAY:g} seconds after the last time,",
    f"no /24 has more than a {PARTS[register._SHARE]}.",
    f"not registered for {HOURS[names.EXPIRES]} is forgotten.",
    f"for a name, {SHORTEST_REQUEST} bytes at least, is answered with up to {LONGEST_INITIATE},",
    f"for an id, {ESTABLISH} bytes, with up to {LONGEST_ESTABLISHED};",
)
PEER_FIGURES = (
    f"port is {parse.HOLEPUNCH_PORT} if left out.",
    f"drops UDP port {parse.HOLEPUNCH_PORT},",
    f"1 to {holepunch.NAME_MAXIMUM} bytes of UTF-8.",
    f"more than {holepunch.TEXT_MAXIMUM} bytes, cut between characters",
    f"more than {stretch.MOST} bytes are several.",
    f"and for {peer._LOST_FOR:g} seconds with none .",
    f"or for {peer._LOST_FOR:g} seconds after one was lost.",
    f"some {exchange._MOST_INPUT // 1024} KiB of the input wait",
    f"more than {2 * output.MOST_WAITING >> 20} MiB are dropped.",
    f"takes its place after {names.GIVES_WAY:g} seconds.",
    f"lost after {peer._HABIT.patience:g} seconds of silence.",
)
CHAT_FIGURES = (
    f"port is {parse.CHAT_PORT} if left out.",
    f"drops UDP port {parse.CHAT_PORT},",
    f"1 to {chat.NAME_MAXIMUM} characters.",
    f"id, {len(chat.peer_id(KEYS.public))} hexadecimal digits.",
    f"A line has {chat.TEXT_MAXIMUM} bytes at most.",
    f"{chat_pipe._MOST_WAITING} lines wait for a path",
    f"fingerprints of {len(chat.fingerprint(KEYS.public).replace(' ', ''))} digits,",
    f"no path after {chatting._PATIENCE:g} seconds;",
    f"no answer to {chatting._HABIT.most} greetings",
)
PROCESSES_FIGURES = (
    f"Processes that forward, 1 to {parse.MOST_WORKERS}.",
    f"at most {parse._LONGEST_PAUSE * 1000:g}ms.",
    f"no sign of life for {supervisor._HUNG_TICKS * supervisor._TICK:g} seconds is ended",
    f"cannot start is tried {supervisor._MOST_TRIES} times",
    f"SIGNAL {supervisor._MOST_TRIES} times in a row",
)
RELAY_FIGURES = (
    f"a quarter of a second's worth, and {Allowance(1, 1).most[0]:g} in any case",
    f"{Allowance(1, 1).most[1] / 1024:g} KiB in any case",
    f"ports {NEVER_PEERS[0]} and {NEVER_PEERS[1]}, of services",
    f"with port {parse.RELAY_PORT}.",
)
HELPER_FIGURES = (
    f"at once, 1 to {expose_wire.TAGS - 1}.",
    f"A name has at most {expose_wire.NAME_MAXIMUM} bytes",
    f"within {eviction.PROTECTED:g} seconds, is never sent away",
    f"ports {NEVER_CONNECTEES[0]} and {NEVER_CONNECTEES[1]}, of services",
    f"a datagram {expose_wire.TAG_LENGTH} bytes longer",
    f"{len(IPV4_HEADER)} bytes longer yet, on the way there, and {len(IPV6_HEADER)} bytes with",
    f"writes {access._LINES:g} a second, {10 * access._LINES:g} in a burst",
    f"for {cookie._LASTS} seconds.",
    f"nature, {LARGER_ANSWERS}, and",
    f"{admission._LARGER_ANSWERS:g} of these a second go to one /24 or /56 at most,"
    f" {2 * admission._LARGER_ANSWERS:g} in a burst",
)
EXPOSE_FIGURES = (
    f"at once, 1 to {expose_wire.TAGS - 1}, each with a socket",
    f"After {keepalives.SILENT_AFTER:g} seconds of silence",
    f"resolved again, each {destination._AGAIN_AFTER:g} seconds at most",
    f"with less than {expose_wire.TAG_LENGTH} bytes",
    f"More than {exposing._MOST_WAITING} for a connectee",
)
CHECK_FIGURES = (
    f"Round trips to measure, 1 to {parse.MOST_PROBES},",
    f"of a helper {statistics.PATIENCE:g} second, is lost",
    f"{admission._LARGER_ANSWERS:g} times a second, {2 * admission._LARGER_ANSWERS:g} times at",
)
STATS_FIGURES = (
    f"these {len(expose_wire.STATISTICS)} numbers",
    f"It is asked for {stats._REMOTE_PATIENCE:g} seconds.",
)
FIGURES = {
    "udppunch-protocols.7": PROTOCOLS_FIGURES + HOLEPUNCH_FIGURES + CHAT_WIRE_FIGURES,
    PAGES["rendezvous"]: RENDEZVOUS_FIGURES,
    PAGES["peer"]: PEER_FIGURES,
    PAGES["chat"]: CHAT_FIGURES,
    PAGES["relay"]: PROCESSES_FIGURES + RELAY_FIGURES,
    PAGES["helper"]: PROCESSES_FIGURES + HELPER_FIGURES,
    PAGES["expose"]: EXPOSE_FIGURES,
    PAGES["check"]: CHECK_FIGURES,
    PAGES["stats"]: STATS_FIGURES,
}


def words(text: str) -> str:
    """A page's text on one line, without the macros that stand alone or set words off."""
    text = re.sub(r"^\.(?:Pp|B[dl] .*|E[dl]|It|Em|Fl|Xr|Cm)(?: |$)", "", text, flags=re.MULTILINE)
    return " ".join(text.split())


@pytest.mark.parametrize(
    ("page", "figure"), [(page, figure) for page, each in FIGURES.items() for figure in each]
)
def test_figures_are_those_of_the_program(page: str, figure: str) -> None:
    assert figure in words(source(page))


def test_a_quarter_of_a_second_passes_at_once() -> None:
    """After a pause what may be left passes twice."""
    assert [2 * most for most in Allowance(4000.0, 4e6).most] == [1000.0, 1e6]


def test_attempts_are_those_of_the_program() -> None:
    def time(seconds: float) -> str:
        return f"{seconds:g} s" if seconds >= 0.1 else f"{1000 * seconds:g} ms"

    rows = re.findall(r"^\.It (\d) Ta (.*) Ta (.*) Ta (.*)$", source("udppunch-protocols.7"), re.M)
    expected = [
        (str(n), str(a.opener_ttl or "no opener"), time(a.client_hold), time(a.server_hold))
        for n, a in enumerate(checks.ATTEMPTS, 1)
    ]
    assert rows == expected


def test_healing_takes_no_longer_than_the_pages_say() -> None:
    """A lost path is noticed within 10 s with time to spare for punching anew."""
    text = words(section("udppunch.1", "When things change", "Ss"))
    assert "in use is found again within 10 seconds" in text
    watch = consent.Consent(15.0, 300.0, bytes, 0.0)
    watch.sent = now = 0.001
    while (verdict := watch.verdict(now)) is not consent.Verdict.LOST:
        assert verdict is not consent.Verdict.IDLE
        now = watch.deadline()
    assert now <= 7.0
    assert "registered again within 15 seconds" in text
    assert registration.REFRESH + registration.SILENT_AFTER < 15.0
    assert f"take its key after {registry.GIVES_WAY:g} seconds" in text
    assert "register again within 20 seconds" in words(source(PAGES["rendezvous"]))
    assert peer_dialogue.REFRESH + peer_dialogue._SILENT_AFTER < 20.0
    assert chat_dialogue.REFRESH + chat_dialogue._SILENT_AFTER < 20.0


# Form


@pytest.mark.parametrize("page", ALL_PAGES)
def test_mandoc_finds_nothing(page: str) -> None:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    lint = ["mandoc", "-T", "lint", "-W", "warning", str(MANUAL / page)]
    result = subprocess.run(lint, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("page", ALL_PAGES)
def test_groff_finds_nothing(page: str) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    result = subprocess.run(
        ["groff", "-ww", "-z", "-man", str(MANUAL / page)], capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("page", ALL_PAGES)
def test_references_lead_to_pages(page: str) -> None:
    for name, number in re.findall(r"^\.(?:It )?Xr (udppunch[\w.-]*) (\d)", source(page), re.M):
        assert f"{name}.{number}" in ALL_PAGES


# Around the pages


def test_setup_installs_all_pages_and_no_others() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    installed = dict(setup["options.data_files"])
    for folder, listed in installed.items():
        for name in listed.split():
            assert folder == f"share/man/man{name[-1]}"
    assert sorted(" ".join(installed.values()).split()) == [f"man/{page}" for page in ALL_PAGES]


def test_version_is_said_once() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: udppunch.__version__"
    other = {ROOT / "udppunch/__init__.py", ROOT / "CHANGELOG.md"}
    files = [*MANUAL.iterdir(), *(ROOT / "udppunch").rglob("*.py"), *ROOT.glob("*.*")]
    for path in {path for path in files if path.is_file()} - other:
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"(p2p_udp_puncher|hole-punch) 0\.1\.0", "", text, flags=re.IGNORECASE)
        assert not re.search(rf"(?<![\d.]){re.escape(udppunch.__version__)}(?![\d.])", text), path


def code(text: str) -> str:
    """What README sets as code."""
    return "\n".join(re.findall(r"^```.*?^```|`[^`]+`", text, re.MULTILINE | re.DOTALL))


def literal(page: str) -> str:
    """What a page sets as code."""
    return "\n".join(
        re.findall(r"^\.Bd -literal.*?^\.Ed|^\.Ql [^\n]*", source(page), re.MULTILINE | re.DOTALL)
    )


def test_commands_shown_exist() -> None:
    """In README and in the pages' examples."""
    texts = [code((ROOT / "README.md").read_text(encoding="utf-8")), *map(literal, ALL_PAGES)]
    shown = re.findall(r"(?<![\w.-])udppunch ([a-z]\w*)", "\n".join(texts))
    assert set(usage.COMMANDS) <= set(shown)
    assert set(shown) <= {*usage.COMMANDS, *config.ALIASES, "udpexposer"}


def test_readme_links_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        if "://" not in target:
            assert (ROOT / target).exists(), target


def test_readme_leads_to_all_pages() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\(man/([^)]+)\)", readme)) == ALL_PAGES
