"""The manual pages, README and `--help` say what the program does, and the same as each other."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Set

import pytest

import udppunch
from udppunch import address, config, demo, errors, usage
from udppunch.config import parse, settings
from udppunch.proto import asking, checks, consent, handshake, registration, registry
from udppunch.wire import control, puncher

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "man"
PAGES = {
    "run": "udppunch.1",
    "serve": "udppunch-serve.1",
    "connect": "udppunch-connect.1",
    "demo": "udppunch-demo.1",
    "rendezvous": "udppunch-rendezvous.8",
}
ALL_PAGES = sorted(path.name for path in MANUAL.iterdir())
# What --help says in words, and the setting's own default for it.
IN_WORDS: Dict[str, Optional[str]] = {"any": None, "none": None, "off": "False"}
IN_WORDS["use them where they work"] = "False"

MARK = puncher.new_mark(bytes(puncher.MARK_RANDOM))
LOOPBACK = address.pack("127.0.0.1", 9)


class Option(NamedTuple):
    name: str
    argument: str
    default: str


def options_in_help(command: str) -> Set[Option]:
    # As docopt reads them, which loses the default of an option without argument.
    found = re.findall(
        r"^  (?:-\w )?(--[\w-]+)(?: ([A-Z]+))? {2,}.*?(?:\[default: (.*)\])?$",
        usage.COMMANDS[command],
        re.MULTILINE,
    )
    return {Option(*groups) for groups in found}


def source(page: str) -> str:
    """The page without the escapes that tell a minus from a hyphen."""
    text = (MANUAL / page).read_text(encoding="utf-8")
    return text.replace(r"\-", "-").replace(r"\e", "\\").replace(r"\(aq", "'")


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
        option = re.fullmatch(r"Fl (?:\w , )?-([\w-]+)(?: Ar (\w+))?", heading)
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
    shown = set(re.findall(r"^\.Op Fl -([\w-]+)(?: Ar (\w+))?$", synopsis, re.MULTILINE))
    said = {(o.name[2:], o.argument) for o in options_in_help(command) if o.name != "--help"}
    assert shown == said


@pytest.mark.parametrize("page", ALL_PAGES)
def test_page_names_no_option_that_does_not_exist(page: str) -> None:
    known = {option.name for command in usage.COMMANDS for option in options_in_help(command)}
    assert options_named(page) <= known | {"--version"}


@pytest.mark.parametrize("command", [*config.ROLES, "run"])
def test_help_has_the_defaults_of_the_settings(command: str) -> None:
    settings = {**config.ROLES.get(command, {}), **config.PROCESS}
    for option in options_in_help(command) - {Option("--help", "", "")}:
        setting = settings[option.name[2:]]
        assert IN_WORDS.get(option.default, option.default) == setting.default, option


@pytest.mark.parametrize("role", config.ROLES)
def test_each_setting_is_an_option_or_an_argument(role: str) -> None:
    options = {option.name[2:] for option in options_in_help(role)}
    line = re.search(rf"^  udppunch {role} (.*)$", usage.COMMANDS[role], re.MULTILINE)
    assert line
    arguments = set(re.findall(r"\b[A-Z]+\b", line[1]))
    assert set(config.ROLES[role]) == options - {"help"} - set(config.PROCESS) | {
        argument.lower() for argument in arguments
    }
    assert arguments <= set(
        re.findall(r"[A-Z]+", "\n".join(items(section(PAGES[role], "DESCRIPTION"))))
    )


def test_default_of_listen() -> None:
    default = config.ROLES["rendezvous"]["listen"].default
    body = items(section("udppunch-rendezvous.8", "DESCRIPTION"))["Ar LISTEN"]
    assert default_in(body) == default
    assert f"{default} if none is given" in usage.COMMANDS["rendezvous"]


def test_classes_of_the_demo() -> None:
    shown = re.findall(r"^\.It Cm (.*)$", section(PAGES["demo"], "DESCRIPTION"), re.MULTILINE)
    assert {name for line in shown for name in line.split(" , ")} == set(demo.CLASSES)


# The file


def settings_in_page(text: str) -> Dict[str, str]:
    named = {head[3:]: body for head, body in items(text).items() if head.startswith("Cm ")}
    return {name: default_in(body) for name, body in named.items()}


def as_in_the_file(setting: settings.Setting) -> str:
    """How the page writes a setting's default."""
    return {"False": "false", None: ""}.get(setting.default, setting.default or "")


def test_file_has_the_settings_of_the_process() -> None:
    text = section("udppunch.yaml.5", "DESCRIPTION").partition("\n.Ss ")[0]
    expected = {name: as_in_the_file(setting) for name, setting in config.PROCESS.items()}
    assert settings_in_page(text) == {**expected, "roles": ""}


@pytest.mark.parametrize("role", config.ROLES)
def test_file_has_the_settings_of_a_role(role: str) -> None:
    text = section("udppunch.yaml.5", role, "Ss")
    expected = {name: as_in_the_file(setting) for name, setting in config.ROLES[role].items()}
    if "bind" in expected:
        expected["bind"] = "any"
    assert settings_in_page(text) == expected
    for name, setting in config.ROLES[role].items():
        required = setting.default is None and not setting.optional
        assert ("\nRequired.\n" in items(text)[f"Cm {name}"]) == required, name


def test_file_has_no_other_role() -> None:
    titles = re.findall(r"^\.Ss (.*)$", source("udppunch.yaml.5"), re.MULTILINE)
    assert titles == list(config.ROLES)


def test_example_of_the_file_loads(tmp_path: Path) -> None:
    shown = re.search(
        r"\.Bd -literal.*?\n(.*?)\.Ed", section("udppunch.yaml.5", "EXAMPLES"), re.DOTALL
    )
    assert shown
    key = tmp_path / "key"
    key.write_text("a key\n")
    text, files = re.subn(r"key-file: .*", f"key-file: {key}", shown[1])
    assert files == 2
    file = tmp_path / "udppunch.yaml"
    file.write_text(text)
    roles, process = config.load_file(str(file), {})
    assert [name for name, _ in roles] == ["serve", "serve", "connect"]
    assert [role.key for _, role in roles] == [b"a key", b"what the players were told", b"a key"]
    assert config.process_config(process, {}).log_level == "info"


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
    """Every string of the program that may be a line of its log, {} standing for anything."""
    for path in sorted((ROOT / "udppunch").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts: List[ast.expr] = []
            if isinstance(node, ast.JoinedStr):
                parts = node.values
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts = [node]
            fixed = [str(p.value) for p in parts if isinstance(p, ast.Constant)]
            if len("".join(fixed)) >= 8:
                yield re.compile(
                    "".join(
                        re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+"
                        for p in parts
                    )
                )


@pytest.mark.parametrize("page", sorted(set(PAGES.values()) - {PAGES["demo"]}))
def test_diagnostics_are_lines_of_the_program(page: str) -> None:
    lines = list(log_lines())
    shown = items(section(page, "DIAGNOSTICS"))
    assert shown
    for line in shown:
        assert any(pattern.match(line) for pattern in lines), line


def test_exit_statuses_are_those_of_the_program() -> None:
    used = set()
    for path in (ROOT / "udppunch").rglob("*.py"):
        if path.name != "errors.py":
            used |= set(re.findall(r"\bEX_[A-Z]+", path.read_text(encoding="utf-8")))
    numbers = {getattr(errors, name) for name in used} | {errors.EX_USAGE, errors.EX_CONFIG, 0}
    assert {int(item) for item in items(section("udppunch.1", "EXIT STATUS"))} == numbers


@pytest.mark.parametrize("page", sorted(set(PAGES.values())))
def test_environment_is_the_one_that_is_read(page: str) -> None:
    program = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "udppunch").rglob("*.py"))
    for name in re.findall(r"^\.(?:It )?Ev (.*)$", source(page), re.MULTILINE):
        for one in re.findall(r"[A-Z_]{4,}", name):
            assert f'"{one}"' in program, one


# Sentences of udppunch-protocols(7) with the numbers that the program has.
FIGURES = (
    f"a key has 1 to {puncher.KEY_MAXIMUM}.",
    f"rendezvous's port is {parse.RENDEZVOUS_PORT}.",
    f"{puncher.MARK_MAGIC.hex(' ').upper()} || version {puncher.MARK_VERSION:02} ||",
    f"random ({puncher.MARK_RANDOM}) {puncher.MARK_LENGTH} bytes",
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
)


def words(text: str) -> str:
    """A page's text on one line, without the macros that stand alone or set words off."""
    text = re.sub(r"^\.(?:Pp|B[dl] .*|E[dl]|It|Em|Fl|Xr|Cm)(?: |$)", "", text, flags=re.MULTILINE)
    return " ".join(text.split())


@pytest.mark.parametrize("figure", FIGURES)
def test_figures_of_the_protocols_are_those_of_the_program(figure: str) -> None:
    assert figure in words(source("udppunch-protocols.7"))


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
        text = re.sub(r"p2p_udp_puncher 0\.1\.0", "", text, flags=re.IGNORECASE)
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
    assert {"rendezvous", "serve", "connect", "demo", "run"} <= set(shown)
    assert set(shown) <= {*usage.COMMANDS, *config.ALIASES}


def test_readme_links_lead_somewhere() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        if "://" not in target:
            assert (ROOT / target).exists(), target
