"""What is printed can be copied and searched for: nothing that names something is cut."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from services.cli.tables import print_json, print_plot, print_table

IDS = ("key_" + "1" * 22, "key_" + "2" * 22)
HEAD = ("key", "name", "owner", "count")
ROWS = [[IDS[0], "a name of [several] words " * 3, "o" * 60, "1,234"], [IDS[1], "", "", "5"]]


def printed(*, terminal: bool, width: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, highlight=False, color_system=None)
    print_table(HEAD, ROWS, text=3, wraps=("name",), console=console)
    return [line.strip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [20, 80, 120, 400])
def test_ids_and_numbers_are_never_cut(width: int, terminal: bool) -> None:
    text = "\n".join(printed(terminal=terminal, width=width))
    for whole in (*IDS, "o" * 60, "1,234"):
        assert whole in text


@pytest.mark.parametrize("width", [20, 80])
def test_away_from_a_terminal_every_row_is_a_line(width: int) -> None:
    lines = printed(terminal=False, width=width)
    assert [line.split()[0] for line in lines if line.startswith("key_")] == list(IDS)
    assert ROWS[0][1].strip() in next(line for line in lines if line.startswith(IDS[0]))
    assert sum(bool(line.strip(" ─")) for line in lines) == 1 + len(ROWS)


def test_a_narrow_terminal_has_its_words_on_several_lines_and_a_wide_one_on_one() -> None:
    assert len(printed(terminal=True, width=120)) > len(printed(terminal=True, width=400))
    assert max(map(len, printed(terminal=True, width=130))) <= 130


def plotted(capsys: pytest.CaptureFixture[str], counts: dict[int, int], start: int, end: int) -> list[str]:
    print_plot(counts, 3600, "uses", start=start, end=end)
    return capsys.readouterr().out.splitlines()


def test_a_plot_spans_what_was_asked_about(capsys: pytest.CaptureFixture[str]) -> None:
    title, *lines = plotted(capsys, {10 * 3600: 5}, 0, 24 * 3600)
    assert title == "uses, 1970-01-01T00:00Z to 1970-01-02T00:00Z, 3,600 s a column"
    assert [line.partition("┤")[2] for line in lines] == [" " * 10 + "█" + " " * 13] * len(lines)


def test_what_lies_outside_widens_a_plot(capsys: pytest.CaptureFixture[str]) -> None:
    title, *lines = plotted(capsys, {0: 1, 3 * 3600: 1}, 3600 + 1, 2 * 3600 + 1)
    assert "1970-01-01T00:00Z to 1970-01-01T04:00Z" in title
    assert lines[-1].partition("┤")[2] == "█  █"


def test_json_is_one_document_of_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Ä[b]", "none": None})
    assert json.loads(capsys.readouterr().out) == {"name": "Ä[b]", "none": None}
