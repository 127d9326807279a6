"""What packaging/release checks and makes: versions and dates, the source archive, the wheel, and
the manual pages in HTML. The packages of distributions have tests of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Dict, List, Set

import pytest

ROOT = Path(__file__).parents[2]
RELEASE = ROOT / "packaging/release"
STATING = (
    "CHANGELOG.md",
    "udppunch/__init__.py",
    "packaging/release",
    "packaging/debian/changelog",
    "packaging/rpm/udppunch.spec",
    "packaging/arch/PKGBUILD",
    "man/udppunch.1",
)


def git(tree: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a test", "-c", "user.email=test@udppunch.example"]
    command = ["git", "-C", str(tree), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(tree: Path) -> List[str]:
    """What it complains of."""
    command = [sys.executable, str(tree / "packaging/release"), "check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == bool(done.stderr), done.stderr
    return done.stderr.splitlines()


# What is stated


def test_versions_and_dates_agree() -> None:
    assert check(ROOT) == []


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Those files of the tree that state a version or a date, changed long ago."""
    for name in STATING:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    assert check(tmp_path) == []
    return tmp_path


@pytest.mark.parametrize(
    ("file", "pattern", "changed", "complaint"),
    [
        ("udppunch/__init__.py", r"\d+\.\d+\.\d+", "97.1.0", "versions: 97.1.0 in udppunch/__init"),
        ("packaging/debian/changelog", r"\d+\.\d+\.\d+", "97.1.0", "versions: "),
        ("packaging/rpm/udppunch.spec", r"(?<=^Version:        )\S+", "97.1.0", "versions: "),
        ("packaging/rpm/udppunch.spec", r"(?<= - )\d+\.\d+\.\d+(?=-1$)", "97.1.0", "versions: "),
        ("packaging/arch/PKGBUILD", r"(?<=pkgver=).+", "97.1.0", "versions: "),
        ("packaging/rpm/udppunch.spec", r"\w+ \w+ \d+ 20\d\d", "Wed Jan 01 2020", "dates: "),
        ("CHANGELOG.md", r"^## .*$", "## [97.1] - 2020-01-01", "CHANGELOG.md: '[97.1]"),
        ("CHANGELOG.md", r"^### \w+$", "### Improved", "CHANGELOG.md: 'Improved' is none of"),
        ("CHANGELOG.md", r"\Z", "\n## [97.1.0] - 2000-01-01\n", ""),
        ("CHANGELOG.md", r"\Z", "\n## [Unreleased]\n", "CHANGELOG.md: the newest does not"),
    ],
)
def test_what_does_not_agree_is_told(
    tree: Path, file: str, pattern: str, changed: str, complaint: str
) -> None:
    text = (tree / file).read_text()
    altered = re.sub(pattern, changed, text, count=1, flags=re.MULTILINE)
    assert altered != text
    (tree / file).write_text(altered)
    told = check(tree)
    assert (len(told) == 1 and told[0].startswith(complaint)) if complaint else not told


def test_a_page_has_a_date_no_older_than_its_last_change(tree: Path) -> None:
    git(tree, "init", "-q")
    git(tree, "add", "man")
    git(tree, "commit", "-q", "-m", "as it is", "--date", "2020-01-01")
    page = tree / "man/udppunch.1"
    page.write_text(re.sub(r"^\.Dd .*$", ".Dd January 1, 2020", page.read_text(), flags=re.M))
    assert [told.partition(" and ")[0] for told in check(tree)] == [
        "man/udppunch.1: .Dd is 2020-01-01,"
    ]


# What is made


@pytest.fixture(scope="module")
def python() -> str:
    for candidate in (sys.executable, "/usr/bin/python3"):
        command = [candidate, "-c", "import setuptools, wheel"]
        if (
            shutil.which(candidate)
            and not subprocess.run(command, stderr=subprocess.DEVNULL).returncode
        ):
            return candidate
    pytest.skip("setuptools and wheel are not installed")


def tracked() -> Set[str]:
    """What git has, and what it would take."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone: there is nothing to compare with")
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return {name for name in listed.split("\0") if name and (ROOT / name).exists()}


def make(python: str, what: str, directory: Path, **environment: str) -> Path:
    command = [python, str(RELEASE), what, str(directory)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_sdist_is_the_tree(python: str, tmp_path: Path) -> None:
    with tarfile.open(make(python, "sdist", tmp_path)) as archive:
        names = {member.name.partition("/")[2] for member in archive}
        assert {(member.uid, member.gid, member.uname) for member in archive} == {(0, 0, "")}
    generated = {name for name in names if name.startswith("udppunch.egg-info/")} | {"PKG-INFO"}
    assert names - generated == tracked() - {".ci/run", ".gitignore"}


def test_wheel_is_the_program_and_its_pages(python: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(make(python, "wheel", tmp_path)) as archive:
        names = {re.sub(r"^udppunch-[\d.]+\.", "", name) for name in archive.namelist()}
    files = tracked()
    pages = {name for name in files if name.startswith("man/")}
    assert names == {
        *(name for name in files if name.startswith("udppunch/")),
        *(f"data/data/share/man/man{name[-1]}/{Path(name).name}" for name in pages),
        *(f"dist-info/{name}" for name in "LICENSE METADATA RECORD WHEEL".split()),
        *(f"dist-info/{name}.txt" for name in ("entry_points", "top_level")),
    }


@pytest.mark.parametrize("what", ["sdist", "wheel"])
def test_two_builds_are_the_same_bytes(python: str, what: str, tmp_path: Path) -> None:
    made = []
    for zone in ("UTC0", "FAR-5:45"):
        (tmp_path / zone).mkdir()
        made.append(make(python, what, tmp_path / zone, TZ=zone).read_bytes())
    assert made[0] == made[1]


# HTML


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, str]:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    directory = tmp_path_factory.mktemp("html")
    subprocess.run([ROOT / "packaging/html", directory], check=True)
    return {path.name: path.read_text(encoding="utf-8") for path in directory.iterdir()}


def test_pages_in_html_are_those_of_man_and_lead_to_each_other(html: Dict[str, str]) -> None:
    manual = {f"{path.name}.html" for path in (ROOT / "man").iterdir()}
    assert set(html) == manual | {"index.html", "style.css"}
    links = {link for text in html.values() for link in re.findall(r'href="([^"#]+)"', text)}
    ours = {link for link in links if not link.startswith("https://")}
    assert ours == manual | {"style.css"}
    assert not any("udppunch" in link for link in links - ours)


def test_pages_in_docs_are_of_today(html: Dict[str, str]) -> None:
    """Else: packaging/html docs/man"""
    docs = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs/man").iterdir()}
    assert {name for name in {**docs, **html} if docs.get(name) != html.get(name)} == set()
