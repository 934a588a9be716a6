"""Tables on terminals of any width, and in pipes."""

from __future__ import annotations

import io

import pytest
from rich.table import Table

from sotopia_rl_data.screen import Screen

ROWS = [("demo/episodes-rewards", "José O'Malley said that he would think about it", "0.6235"), ("b", "", "–")]


def shown(width: int, rows: list[tuple[str, ...]] = ROWS) -> str:
    """The table as a terminal of this width has it."""
    table = Table("dataset", "utterance", "reward", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    stream = io.StringIO()
    screen = Screen(stream)
    screen.width = width
    screen.show(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def test_where_everything_fits_it_is_a_table():
    assert shown(90).splitlines()[:2] == [
        "dataset                utterance                                        reward",
        "demo/episodes-rewards  José O'Malley said that he would think about it  0.6235",
    ]


def test_long_text_is_wrapped_between_words():
    assert shown(55).splitlines()[1:3] == [
        "demo/episodes-rewards  José O'Malley said      0.6235",
        "                       that he would think",
    ]


def test_a_word_that_is_longer_than_a_line_stays_whole():
    stream = io.StringIO()
    screen = Screen(stream)
    screen.width = 20
    screen.say("demo/episodes 2b1b9ece8c89 /home/ana/store/demo/episodes/v1.0.0", "bold")
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "demo/episodes",
        "2b1b9ece8c89",
        "/home/ana/store/demo/episodes/v1.0.0",
    ]


def test_where_words_would_be_cut_a_row_is_a_column():
    assert shown(40, ROWS[:1]).splitlines() == [
        "dataset    demo/episodes-rewards",
        "utterance  José O'Malley said that he",
        "           would think about it",
        "reward     0.6235",
    ]


def test_where_not_even_that_fits_a_row_is_a_paragraph_without_what_it_lacks():
    assert shown(30).splitlines() == [
        "dataset",
        "demo/episodes-rewards",
        "  utterance: José O'Malley",
        "    said that he would think",
        "    about it  reward: 0.6235",
        "b",
    ]


def test_the_columns_that_can_be_spared_go_first_and_are_named():
    table = Table("name", "mean", "sd", box=None, pad_edge=False)
    table.add_row("relationship", "0.123", "4.567")
    stream = io.StringIO()
    screen = Screen(stream)
    screen.width = 20
    assert screen.show(table, spare=["sd", "mean"]) == (["sd"], 1)
    assert stream.getvalue().split() == ["name", "mean", "relationship", "0.123"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_a_table_without_rows_shows_its_columns(width: int):
    assert "data" in shown(width, [])


def test_a_pipe_is_never_narrow():
    assert Screen(io.StringIO()).width >= 160
    assert Screen(io.StringIO(), columns=200).width == 200
