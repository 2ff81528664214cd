"""What the house is made of: its files as git sees them, its modules as Python parses them."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("shared/keyledger", "services", "infra", "examples")


@cache
def files() -> tuple[Path, ...]:
    """Every file of the repository, committed or about to be; what is ignored is not part of it."""
    # a checkout that belongs to another user is still this one
    command = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return tuple(path for name in sorted(set(listed.split("\0")) - {""}) if (path := ROOT / name).is_file())


def modules(*folders: str) -> list[Path]:
    """The Python files below these folders."""
    below = tuple(ROOT / folder for folder in folders)
    return [
        path for path in files() if path.suffix == ".py" and any(path.is_relative_to(one) for one in below)
    ]


def parsed(path: Path) -> ast.Module:
    """A module's syntax."""
    return ast.parse(path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    """A file's name as the failure shows it."""
    return path.relative_to(ROOT).as_posix()


def is_docstring_only(module: ast.Module) -> bool:
    """Whether there is a docstring and nothing behind it."""
    return ast.get_docstring(module) is not None and len(module.body) == 1


def is_async(module: ast.Module) -> bool:
    """Whether anything in it may wait."""
    waiting = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    return any(isinstance(node, waiting) for node in ast.walk(module))


def mentions(module: ast.Module, dotted: frozenset[str]) -> Iterator[str]:
    """Which of these names (`os.environ`, `datetime.now`) it uses or imports."""
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute):
            owner = node.value
            last = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
            if f"{last}.{node.attr}" in dotted:
                yield f"{last}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from (name for alias in node.names if (name := f"{node.module}.{alias.name}") in dotted)
