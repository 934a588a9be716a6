"""YAML comes through one door: bounded, without dates, and whatever goes wrong is a sentence with its line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sotopia_rl_data.errors import InputError
from sotopia_rl_data.store.readme import split_front
from sotopia_rl_data.yaml_nodes import read_text, values

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "\n".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {k: v}\n" + "\n".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 9)}]}}"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
WRONG = {  # a text, and how its error goes on after "x.yaml:"
    "a bracket that stays open": ("a: 1\nb: [1, 2\n", "3: this is not YAML"),
    "a tab for a blank": ("a:\n\t- 1\n", "2: this is not YAML"),
    "brackets 100,000 deep": ("[" * 100_000, ""),
    "brackets 45 deep": ("a: 1\nb: " + "[" * 45 + "]" * 45, "2: lists and mappings are more than 40 deep"),
    "mappings 2,000 deep": ("".join(f"{' ' * i}a:\n" for i in range(2000)), ""),
    "aliases of aliases": (BOMB, "5: this is more than 100,000 values, its aliases written out"),
    "merges of merges": (MERGES, "6: this is more than 100,000 values, its aliases written out"),
    "an alias of what it is in": ("a: 1\nb: &b [1, *b]\n", "2: this contains itself"),
    "an unknown alias": ("a: *b\n", "1: this is not YAML"),
    "a huge integer": (f"a: 1\nb: {'9' * 5000}\n", "2: "),
    "a huge integer, told": (f"b: !!int {'9' * 5000}\n", "1: "),
    "a huge hexadecimal": (f"b: 0x{'f' * 5000}\n", "1: "),
    "an integer that is text": ("b: !!int abc\n", "1: this cannot be read: 'abc' is not what"),
    "an object of Python": ("a: !!python/object/apply:os.system ['true']\n", "1: "),
    "a tag of one's own": ("a: !mine 3\n", "1: "),
    "a list as a key": ("? [1, 2]\n: 3\n", "1: "),
    "a mapping as a key": ("? {a: 1}\n: 3\n", "1: "),
    "half of a surrogate pair": ('a: 1\nb: ["\\ud800"]\n', "2: this text holds half of a surrogate pair"),
    "half of a surrogate pair as a key": ('a: 1\n"\\udfff": 1\n', "2: this text holds half of a surrogate pair"),
    "a control character": ("a: \x00\n", ""),
    "two documents": ("a: 1\n---\nb: 2\n", "3: this is not YAML: a second document begins here"),
    "a merge of text": ("<<: text\n", "1: "),
    "a bad directive": ("%YAML 9.9\n---\na: 1\n", "1: this is not YAML"),
    "an escape of no character": ('a: "\\xZZ"\n', "1: this is not YAML"),
    "pairs that are none": ("a: !!pairs [1, 2]\n", "1: "),
    "an ordered map of numbers": ("a: !!omap 3\n", "1: "),
    "a float that is text": ("a: !!float abc\n", "1: "),
    "a boolean that is text": ("a: !!bool maybe\n", "1: "),
    "a text and its aliases": (f"a: &a {'x' * 100_000}\nb: [{'*a, ' * 100}]\n", "2: this is more than 100,000 values"),
    "half a million values": (f"[{'a,' * 499_998}]", "1: this is more than 100,000 values"),
    "100,000 keys": ("".join(f"k{i}: 1\n" for i in range(100_000)), "50001: this is more than 100,000 values"),
    "120,000 documents": ("---\n" * 120_000, "3: this is not YAML: a second document begins here"),
    "a million characters and one": ("a: " + "x" * 1_000_000, ""),
    "nothing": ("# only a comment\n", ""),
}


@pytest.mark.slow
@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_whatever_goes_wrong_is_a_sentence_with_its_line_within_seconds(text, said):
    begun = time.process_time()
    with pytest.raises(InputError) as raised:
        values(text, "x.yaml", "a thing", "a hint")
    assert raised.value.message.startswith(f"x.yaml:{said}" if said else "x.yaml")
    assert len(raised.value.message) < 300
    assert time.process_time() - begun < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-99-99", "2024-99-99"),
        ("2024-01-02", "2024-01-02"),
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05Z"),
        ("!!timestamp 2024-99-99", "2024-99-99"),
        ("1:59:59", "1:59:59"),
        ("1" + ":59" * 200_000, "1" + ":59" * 200_000),
        ("!!int 1:59:59", "1:59:59"),
        ("1:59.5", "1:59.5"),
        ("!!binary aGVsbG8=", "aGVsbG8="),
        ("9223372036854775807", 2**63 - 1),
        ("0x1F", 31),
        ("1_000", 1000),
        ("1.5", 1.5),
        ("1e3000", "1e3000"),
        ("yes", True),
        ("~", None),
    ],
)
def test_numbers_and_texts_are_what_they_look_like_and_dates_are_texts(text, value):
    begun = time.process_time()
    assert values(f"a: {text}\n", "x.yaml", "a thing", "a hint") == {"a": value}
    assert time.process_time() - begun < 3


def test_front_matter_has_a_quarter_of_that_since_it_is_read_several_times():
    front = {"k": ["a"] * 24_000}
    assert split_front(f"---\nk: [{'a,' * 24_000}]\n---\nBelow.") == (front, "Below.")
    assert split_front(f"---\nk: [{'a,' * 25_000}]\n---\nBelow.") == ({}, "Below.")


def test_a_pipe_or_a_device_is_not_opened_since_it_might_never_end(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match="cannot be read: it is not a regular file"):
            read_text(path, "rubric", "name a YAML file")
