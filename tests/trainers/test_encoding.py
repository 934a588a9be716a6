"""Messages to tokens: read at the end of the turn, cut in the middle of the history, never in the answer."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

import runpy
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fixtures.places import ROOT

pytest.importorskip("transformers", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from fixtures.chat_templates import TEMPLATES, tokenizer_with
from fixtures.training import act, chat_prompt, make_dataset, single_prompt
from tokenizers import AddedToken

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers.data import load_rows
from sotopia_rl_data.trainers.encoding import (
    Borders,
    Encoded,
    Encoder,
    check_padding,
    cuts_of,
    dialogues,
    fewest,
    load_tokenizer,
    without_turns,
)
from sotopia_rl_data.trainers.reward_model.tree import shared_prefix
from sotopia_rl_data.trainers.tiny import make_tiny, tiny_tokenizer

NAMES = ("Ann", "Bo")
SAID = [f"sentence number {i}" for i in range(10)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


def prompt(layout: str) -> list[dict[str, str]]:
    return (chat_prompt if layout == "chat" else single_prompt)("Ann", NAMES, "3", SAID, 10)


ANSWER = [{"role": "assistant", "content": act("an answer that must survive whole")}]


def test_the_last_token_ends_the_turn_and_the_newline_after_it_is_gone(tokenizer: Any):
    (found,) = Encoder(tokenizer).encode([(prompt("chat"), ANSWER)])
    assert tokenizer.decode(found.ids).endswith('whole"}<|im_end|>')
    assert found.ids[-1] == tokenizer.eos_token_id
    assert found.turns_cut == 0


@pytest.mark.parametrize("layout", ["chat", "single"])
def test_a_long_prompt_loses_whole_turns_from_its_middle(tokenizer: Any, layout: str):
    (whole,) = Encoder(tokenizer).encode([(prompt(layout), ANSWER)])
    (cut,) = Encoder(tokenizer, len(whole.ids) - 40).encode([(prompt(layout), ANSWER)])
    text = tokenizer.decode(cut.ids)
    assert len(cut.ids) <= len(whole.ids) - 40
    assert cut.turns_cut > 0
    assert "two friends plan an evening" in text  # the scene
    assert ("The conversation starts" if layout == "chat" else "sentence number 0") in text  # how it began
    assert "sentence number 9" in text  # what is answered
    assert "sentence number 1" not in text
    assert "turns are left out here" in text
    assert text.endswith(act("an answer that must survive whole") + "<|im_end|>")


def test_nothing_more_than_needed_is_cut(tokenizer: Any):
    (whole,) = Encoder(tokenizer).encode([(prompt("single"), ANSWER)])
    (cut,) = Encoder(tokenizer, len(whole.ids) - 1).encode([(prompt("single"), ANSWER)])
    (longer,) = Encoder(tokenizer).encode([(without_turns(prompt("single"), cut.turns_cut - 1), ANSWER)])
    assert len(longer.ids) > len(whole.ids) - 1


def test_what_cannot_be_made_to_fit_is_none(tokenizer: Any):
    assert Encoder(tokenizer, 20).encode([(prompt("single"), ANSWER), (prompt("chat"), ANSWER)]) == [None, None]


def test_the_chat_layout_keeps_its_roles_alternating():
    messages = prompt("chat")
    assert list(cuts_of(messages)) == [2, 4, 6, 8]
    for count in (0, *cuts_of(messages)):
        roles = [m["role"] for m in without_turns(messages, count)]
        assert roles[:2] == ["system", "user"]
        assert all(a != b for a, b in pairwise(roles))
        assert roles[-1] == "user"


def test_the_single_layout_says_how_many_turns_are_gone():
    assert list(cuts_of(prompt("single"))) == [1, 2, 3, 4, 5, 6, 7, 8]
    text = without_turns(prompt("single"), 3)[0]["content"]
    assert "number 0\n[3 turns are left out here]\nTurn #4: Ann said: sentence number 4" in text


@pytest.mark.parametrize("layout", ["single", "chat"])
def test_the_projects_own_layouts_are_cut_too(tokenizer: Any, layout: str):
    from sotopia_rl_data.prompts import prompts_of
    from sotopia_rl_data.schema import Agent, Episode, Turn

    people = (Agent("a", "Ann", goal="agree"), Agent("b", "Bo", goal="agree"))
    turns = tuple(Turn(i, "ab"[i % 2], "speak", f"sentence number {i}") for i in range(12))
    episode = Episode("e", "v", people, turns, scenario="An evening is planned.")
    *_, (_, _, messages, answer) = prompts_of(episode, layout)
    encoder = Encoder(tokenizer)
    (whole,) = encoder.encode([(messages, answer)])
    (cut,) = Encoder(tokenizer, len(whole.ids) - 60).encode([(messages, answer)])
    text = tokenizer.decode(cut.ids)
    assert cut.turns_cut >= 2
    assert "An evening is planned." in text
    assert "sentence number 10" in text
    assert "turns are left out here]" in text
    assert text.endswith('sentence number 11"}<|im_end|>')


def test_fewest_is_the_smallest_that_is_enough():
    assert [fewest(range(1, 10), lambda n, k=k: n >= k) for k in (1, 5, 9, 10)] == [1, 5, 9, None]
    assert fewest([], lambda n: True) is None


def test_padding_that_is_the_end_of_the_turn_is_refused():
    spoilt = tiny_tokenizer()
    spoilt.pad_token = spoilt.eos_token
    with pytest.raises(InputError, match="a token too early") as refused:
        check_padding(spoilt)
    assert "pad_token=" in refused.value.hint


def test_a_model_without_a_chat_template_is_refused():
    bare = tiny_tokenizer()
    bare.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        Encoder(bare)


def test_a_template_that_never_ends_a_turn_is_refused():
    endless = tiny_tokenizer()
    endless.chat_template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    with pytest.raises(InputError, match="does not end an assistant's turn"):
        Encoder(endless)


def test_what_is_kept_of_rows_depends_on_all_that_splits_a_text():
    from tokenizers import normalizers

    plain, lowered = tiny_tokenizer(), tiny_tokenizer()
    plain("padded", padding="max_length", max_length=50)
    assert Encoder(plain).settings() == Encoder(lowered).settings()
    lowered.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert lowered.get_vocab() == plain.get_vocab()
    assert Encoder(plain).settings() != Encoder(lowered).settings()


@pytest.mark.parametrize("layout", ["chat", "single"])
@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "by chance"])
def test_where_an_answer_starts_is_found_without_encoding_its_prompt_again(name: str, layout: str):
    """As the ids of the prompt alone tell it, with any template, and with texts that spell what splits a text."""
    tokenizer = tokenizer_with(name)
    tokenizer.add_tokens([AddedToken("<tag>", normalized=False), AddedToken("word", single_word=True), "< lax >"])
    for said in ("an answer", "<tag>x", "<|e|> é\u0301 <tag><tag> word < lax >", ""):
        asked = prompt(layout)
        asked[-1] = {**asked[-1], "content": f"{asked[-1]['content']} {said}"}
        answer = [{"role": "assistant", "content": act(said)}]
        try:
            encoder = Encoder(tokenizer)
            (found,) = encoder.encode([(asked, answer)])
        except InputError:
            continue  # what is refused is the matter of test_templates
        assert encoder.answer_starts([asked], [found]) == [shared_prefix(encoder.prompts([asked])[0], found.whole)]
        stock = tokenizer.apply_chat_template(encoder.plain([*asked, *answer]), return_dict=True)["input_ids"]
        assert found.whole.tolist() == stock


def test_an_added_token_that_plain_text_can_make_is_not_taken_for_a_border(tokenizer: Any):
    tokenizer = tiny_tokenizer()
    (number,) = tokenizer("a", add_special_tokens=False)["input_ids"]
    borders = Borders(SimpleNamespace(added_tokens_decoder={number: AddedToken("<a>", normalized=False)}))
    found = lambda text: Encoded(ids := np.array([7, number, 8, number, 9]), ids, text)  # noqa: E731
    assert borders.last_of("x<a>y<a>", found("x<a>y<a>z")) == (5, 3)
    assert borders.last_of("x<a>", found("x<a>y<a>z")) == (1, 1)
    for text in ("xay<a>z", "x<a>yaz", "x<a>y<a>z<a>"):
        assert borders.last_of("x<a>", found(text)) == (0, 0)


def test_the_longest_prompts_are_those_of_most_tokens_in_train_and_in_validation(tokenizer: Any, tmp_path: Path):
    data = load_rows(make_dataset(tmp_path, episodes=10, environments=10), store=tmp_path)
    encoder = Encoder(tokenizer)
    expected = []
    for split in ("train", "validation"):
        prompts = [list(row.prompt) for row in data.read(split)]
        expected += sorted(prompts, key=lambda prompt: len(encoder.prompts([prompt])[0]))[-4:]
    assert list(dialogues(data, encoder, with_completion=False).longest) == expected


def test_a_tiny_model_is_made_by_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`python -m sotopia_rl_data.trainers.tiny DIR`, as examples/pipeline.sh calls it:
    the samples' words are tokens of their own."""
    monkeypatch.setattr("sys.argv", ["tiny", str(tmp_path / "m")])
    runpy.run_path(str(ROOT / "trainers" / "tiny.py"), run_name="__main__")
    assert load_tokenizer(str(tmp_path / "m")).tokenize("the conversation") == ["the", "Ġconversation"]


def test_another_padding_token_and_template_can_be_named(tmp_path: Path):
    make_tiny(tmp_path / "m", hidden=8, layers=1)
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    found = load_tokenizer(str(tmp_path / "m"), pad_token="<|im_start|>", chat_template=str(template))
    assert (found.pad_token, found.pad_token_id) == ("<|im_start|>", 1)
    Encoder(found)
    with pytest.raises(UsageError, match="not in the vocabulary"):
        load_tokenizer(str(tmp_path / "m"), pad_token="<nope>")
    with pytest.raises(InputError, match="cannot be read"):
        load_tokenizer(str(tmp_path / "m"), chat_template=str(tmp_path / "absent"))
