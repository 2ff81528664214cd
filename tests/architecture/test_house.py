"""The house stays as it was drawn: short files, plain names, one reader of the time, a short root."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.house import (
    ROOT,
    SOURCES,
    files,
    is_async,
    is_docstring_only,
    mentions,
    modules,
    named,
    parsed,
)

LONGEST = 400
VAGUE = {"util", "utils", "helper", "helpers", "common", "base", "manager", "misc"}
#: pyproject.toml and what stands beside it; whatever else is wanted has a place below one of these.
FRONT = set(
    "pyproject.toml README.md Makefile CHANGELOG.md SECURITY.md LICENSE .ci .gitignore "
    "services shared infra examples tests bench".split()
)
WALL_TIME = frozenset(
    {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
)
ENVIRONMENT = frozenset({"os.environ", "os.environb", "os.getenv", "os.putenv"})
READS_TIME = ("shared/keyledger/clock.py",)
READS_ENVIRONMENT = ("shared/keyledger/server/settings.py", "services/cli/", "infra/local/")


def test_no_source_file_is_longer_than_a_sitting() -> None:
    long = {named(path): length for path in modules(*SOURCES) if (length := _lines(path)) > LONGEST}
    assert long == {}


def _lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = [
        named(path)
        for path in modules(*SOURCES, "bench", "tests")
        if VAGUE
        & {part.lower().removeprefix("_").removesuffix(".py") for part in path.relative_to(ROOT).parts}
    ]
    assert vague == []


def test_every_module_says_what_it_owns() -> None:
    silent = [named(path) for path in modules(*SOURCES, "bench") if not ast.get_docstring(parsed(path))]
    assert silent == []


def test_a_package_says_what_it_is_and_does_nothing() -> None:
    busy = [
        named(path)
        for path in modules(*SOURCES, "bench")
        if path.name == "__init__.py" and not is_docstring_only(parsed(path))
    ]
    # the one that hands out the library's front door when it is asked for
    assert busy == ["shared/keyledger/verification/__init__.py"]


def test_domain_code_never_waits() -> None:
    domains = [path for path in modules("services") if "domain" in path.parts]
    assert len(domains) > 4
    assert [named(path) for path in domains if is_async(parsed(path))] == []


@pytest.mark.parametrize(
    ("names", "allowed"),
    [(WALL_TIME, READS_TIME), (ENVIRONMENT, READS_ENVIRONMENT)],
    ids=["time", "environment"],
)
def test_what_changes_by_itself_is_read_in_one_place(names: frozenset[str], allowed: tuple[str, ...]) -> None:
    found = {
        named(path): used
        for path in modules(*SOURCES)
        if not named(path).startswith(allowed) and (used := sorted(set(mentions(parsed(path), names))))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nos.environ['A']", {"os.environ"}),
        ("from os import getenv as g", {"os.getenv"}),
        ("import datetime\ndatetime.datetime.now()", {"datetime.now"}),
        ("from datetime import datetime\nx = datetime.now", {"datetime.now"}),
        ("import time\ntime.monotonic()\ntime.time()", {"time.time"}),
        ("clock.now()\nself.environ\nenvironment = {}", set()),
    ],
)
def test_a_planted_reader_is_found(source: str, found: set[str]) -> None:
    """What finds nothing in the house must be able to find something."""
    assert set(mentions(ast.parse(source), WALL_TIME | ENVIRONMENT)) == found


def test_a_planted_wait_and_a_busy_package_are_found() -> None:
    assert is_async(ast.parse("class A:\n async def f(self): ..."))
    assert not is_async(ast.parse("def f(): ..."))
    assert is_docstring_only(ast.parse('"""Words."""'))
    for source in ("", "x = 1", '"""Words."""\nimport os'):
        assert not is_docstring_only(ast.parse(source))


def test_the_root_stays_short() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in files()} <= FRONT


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    """Neither somebody's home nor where their packages came from; the words are put together only here."""
    hosts = [
        ".".join(parts)
        for parts in (
            ("files", "pythonhosted"),
            ("py" + "pi", "org"),
            ("registry", "npm" + "js"),
            ("deb", "debian"),
        )
    ]
    homes = ["/" + "root" + "/", "/" + "Users" + "/"]
    own = [f"{place}/" for place in (str(Path.home()), str(ROOT)) if place.count("/") > 1]
    forbidden = re.compile("|".join(re.escape(word) for word in hosts + homes + own).encode())
    found = {
        named(path): match.group().decode()
        for path in files()
        if (match := forbidden.search(path.read_bytes()))
    }
    assert found == {}


REQUIREMENTS = sorted(path for path in (ROOT / "infra/requirements").iterdir() if path.suffix == ".txt")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?=\s|$)")
_PINNED = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==\S+")


def _requirements(path: Path) -> list[str]:
    """Every requirement with what is on its continued lines."""
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")
    ]
    return [one.strip() for one in "\n".join(lines).replace("\\\n", " ").splitlines() if one.strip()]


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_every_package_is_pinned_to_its_hashes(path: Path) -> None:
    requirements = _requirements(path)
    assert len(requirements) > 10
    assert [one[:60] for one in requirements if not (_PINNED.match(one) and _HASH.search(one))] == []


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_what_is_wanted_is_what_is_pinned(path: Path) -> None:
    pinned = {_plain(found.group(1)) for one in _requirements(path) if (found := _PINNED.match(one))}
    wanted = [
        _plain(re.split(r"[\s\[<>=!~;]", line, maxsplit=1)[0])
        for line in path.with_suffix(".in").read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith(("#", "-"))
    ]
    assert wanted
    assert [name for name in wanted if name not in pinned] == []


def test_a_pin_names_the_extras_others_ask_it_for() -> None:
    """Where only `name` is pinned, pip takes the newest `name[extra]` there is and finds no hash for it."""
    pinned = {
        _plain(found.group(1)): one.split("==", maxsplit=1)[0]
        for one in _requirements(REQUIREMENTS[0].with_name("dev.txt"))
        if (found := _PINNED.match(one))
    }
    asked = {
        (_plain(found.group(1)), extra.strip())
        for installed in metadata.distributions()
        if _plain(installed.name) in pinned
        for one in installed.requires or []
        if "extra ==" not in one and (found := re.match(r"([A-Za-z0-9._-]+)\s*\[([^\]]+)\]", one))
        for extra in found.group(2).split(",")
    }
    assert asked
    missing = [
        f"{name}[{extra}]"
        for name, extra in sorted(asked)
        if not re.search(rf"[\[,]{extra}[\],]", pinned.get(name, ""))
    ]
    assert missing == []


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_there_is_one_way_to_pin() -> None:
    others = {"uv.lock", "poetry.lock", "Pipfile.lock", "pdm.lock", "setup.py", "setup.cfg", "tox.ini"}
    assert [named(path) for path in files() if path.name in others] == []


def test_the_import_contracts_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_no_service_stands_outside_the_import_contracts() -> None:
    """The command line may import everything; it is no service."""
    contracts: list[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "tool"
    ]["importlinter"]["contracts"]
    services = {
        f"services.{path.parent.name}"
        for path in files()
        if path.name == "__main__.py" and path.parent.parent == ROOT / "services"
    } - {"services.cli"}
    assert "services.keys" in services
    for kind, listed in (("independence", "modules"), ("layers", "containers")):
        named_in = [set(one[listed]) for one in contracts if one["type"] == kind and listed in one]
        assert any(services <= names for names in named_in), f"{services} are not all in the {kind} contract"


def test_the_extra_brings_what_the_embedded_verifier_imports() -> None:
    """What is imported beneath `Verifier` is the library's own, Python's, or asked for by the extra."""
    script = (
        "import sys; before = set(sys.modules); from keyledger.verification import Verifier; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    project = tomllib.loads((ROOT / "shared/pyproject.toml").read_text(encoding="utf-8"))["project"]
    light = {_plain(re.split(r"[<>=\[]", each)[0]) for each in project["dependencies"]}
    extra = {_plain(re.split(r"[<>=\[]", each)[0]) for each in project["optional-dependencies"]["embedded"]}
    brought = _with_what_it_needs(light | extra)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"keyledger"}
    owners = metadata.packages_distributions()
    missing = {
        name for name in foreign if name in owners and not {_plain(each) for each in owners[name]} & brought
    }
    assert missing == set()
    assert {"nats", "msgspec", "httpx2"} <= foreign


def _with_what_it_needs(names: set[str]) -> set[str]:
    """The distributions and, step by step, all they require without an extra."""
    found: set[str] = set()
    while names:
        name = names.pop()
        found.add(name)
        try:
            needed = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        plain = {_plain(re.split(r"[\s<>=!~;\[(]", each)[0]) for each in needed if "extra ==" not in each}
        names |= plain - found
    return found
