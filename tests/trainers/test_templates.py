"""Chat templates: each is right in what is trained on, or refused with a sentence. Nothing is lost in silence."""

# ruff: noqa: E402  (nothing below can be imported without the train extra)

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra: pip install -e '.[train]'")
pytest.importorskip("trl", reason="needs the train extra: pip install -e '.[train]'")
pytestmark = pytest.mark.train

from fixtures.chat_templates import MARKS, TEMPLATES, model_with, tokenizer_with
from fixtures.training import (
    act,
    chat_prompt,
    make_dataset,
    quarters,
    single_prompt,
    train_dpo,
    train_grpo,
    train_rm,
    train_sft,
)
from transformers import AutoTokenizer, logging

from sotopia_rl_data.errors import InputError, UsageError
from sotopia_rl_data.trainers import api
from sotopia_rl_data.trainers.encoding import Encoder
from sotopia_rl_data.trainers.templates import prepare_template
from sotopia_rl_data.trainers.tiny import tiny_tokenizer

torch.set_num_threads(1)
logging.disable_progress_bar()
NAMES = ("Ann", "Bo")
SAID = [f"sentence number {i}" for i in range(7)]
USES = ("rm", "sft", "dpo", "grpo")
OF_TRL = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"  # type: ignore[union-attr, arg-type]

REFUSED = {  # for which uses, and what is said
    "a date": (USES, "writes today's date"),
    "a date of its own": (USES, "writes today's date"),
    "parts": (USES, "loses the text of the"),
    "plain words": (USES, "does not end an assistant's turn with a special token"),
    "a last word": (("sft", "dpo"), "writes 'Thank you.' after an answer"),
    "short messages": (USES, "changes the text of the"),
    "by chance": (USES, "renders one dialogue in several ways"),
    "a short memory": (USES, "loses the text of the system's message"),
    "a date without a system": (USES, "writes today's date"),
    "ends with the next": (USES, "does not end an assistant's turn with a special token"),
}


def dialogue(layout: str) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    prompt = (chat_prompt if layout == "chat" else single_prompt)("Ann", NAMES, "3", SAID, 7)
    return prompt, [{"role": "assistant", "content": act("the very answer")}]


def check_right(tokenizer: Any, use: str, layout: str) -> None:
    """What a run of this use would train on holds every text; for cloning and DPO, the loss is on the answer alone."""
    prompt, answer = dialogue(layout)
    (found,) = Encoder(tokenizer, use=use).encode([(prompt, () if use == "grpo" else answer)])
    text = tokenizer.decode(found.ids)
    for message in [*prompt, *(answer if use != "grpo" else [])]:
        assert message["content"].strip() in text
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]
    if use == "grpo":
        assert found.ids.tolist() == asked
    elif use != "rm":
        whole = tokenizer.apply_chat_template(prompt + answer, return_dict=True)["input_ids"]
        assert whole[: len(asked)] == asked
        learned = tokenizer.decode(whole[len(asked) :])
        assert re.sub("|".join(map(re.escape, (*MARKS, "<|im_end|>"))), "", learned).strip() == answer[0]["content"]


def prepare_and_check(tokenizer: Any, use: str, layout: str) -> None:
    prepare_template(tokenizer, use)
    check_right(tokenizer, use, layout)


@pytest.mark.parametrize("layout", ["single", "chat"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_is_right_or_refused(name: str, use: str, layout: str):
    tokenizer = tokenizer_with(name)
    uses, said = REFUSED.get(name, ((), ""))
    if use not in uses or (name == "a short memory" and layout == "single"):
        prepare_and_check(tokenizer, use, layout)
        return
    with pytest.raises(InputError, match=re.escape(said)) as refused:
        prepare_and_check(tokenizer, use, layout)
    assert "--set " in refused.value.hint


@pytest.mark.long
@pytest.mark.parametrize("path", [path for path in sorted(OF_TRL.glob("*.jinja")) if "_training" not in path.stem])
def test_every_template_that_trl_knows_is_right_or_refused(path: Path):
    marks = re.findall(r"<[|｜]?[\w▁/|｜]+[|｜]?>|\[/?[A-Z_]+\]", path.read_text(encoding="utf-8"))
    for use in USES:
        tokenizer = tiny_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": [*dict.fromkeys(marks)]})
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        with contextlib.suppress(InputError):
            prepare_template(tokenizer, use)
            for layout in ("single", "chat"):
                prompt, answer = dialogue(layout)
                Encoder(tokenizer, use=use).encode([(prompt, () if use == "grpo" else answer)])
                given: dict[str, Any] = {"add_generation_prompt": use == "grpo", "tokenize": False}
                text = tokenizer.apply_chat_template(prompt + ([] if use == "grpo" else answer), **given)
                assert all(message["content"].strip() in text for message in prompt)


def test_what_is_set_stays_with_the_tokenizer(tmp_path: Path):
    """The hint for a date works as printed; the same tokens come tomorrow, and from stock code."""
    for name in ("a date", "a date of its own"):
        tokenizer = tokenizer_with(name)
        with pytest.raises(InputError) as refused:
            prepare_template(tokenizer, "rm")
        key = re.fullmatch(r"fix the date: --set template_kwargs='{(\w+): 26 Jul 2024}'", refused.value.hint)[1]  # type: ignore[index]
        assert key == ("date_string" if name == "a date" else "strftime_now")
        tokenizer = tokenizer_with(name)
        prepare_template(tokenizer, "rm", {key: "26 Jul 2024"})
        tokenizer.save_pretrained(tmp_path / key)
        stock = AutoTokenizer.from_pretrained(tmp_path / key)
        assert "Today: 26 Jul 2024" in stock.apply_chat_template(dialogue("chat")[0], tokenize=False)


def test_a_switch_of_the_template_is_set_where_there_is_one():
    tokenizer = tokenizer_with("a thought")
    prepare_template(tokenizer, "sft", {"thinking": False})
    assert tokenizer.chat_template == "{%- set thinking = false %}" + TEMPLATES["a thought"]
    check_right(tokenizer, "sft", "chat")
    with pytest.raises(UsageError, match="does not read 'thnking'") as refused:
        prepare_template(tokenizer_with("a thought"), "sft", {"thnking": False})
    assert refused.value.hint == "it reads thinking"
    tokenizer.chat_template = "{% for m in messages %}"
    with pytest.raises(InputError, match="cannot be parsed"):
        prepare_template(tokenizer, "rm")


def test_values_of_settings_are_kept_as_they_are():
    tokenizer = tokenizer_with("turns")
    tokenizer.chat_template = "{{ a | tojson }}{{ b | tojson }}" + TEMPLATES["turns"]
    values = {"a": 'say "§ %}" \\ ', "b": [1, 2.5, None, True, {"k": "é"}]}
    prepare_template(tokenizer, "rm", values)
    text = tokenizer.apply_chat_template(dialogue("chat")[0], tokenize=False)
    assert text.startswith(json.dumps(values["a"], ensure_ascii=False) + json.dumps(values["b"], ensure_ascii=False))


LONG = ("channels", "a closed thought", "a thought after the last question", "a wrapped answer", "a switch")


@pytest.mark.slow
@pytest.mark.parametrize("layout", [pytest.param("single", marks=pytest.mark.long), "chat"])
@pytest.mark.parametrize(
    "name",
    [
        *("system at the last user", "no system", "a thought"),
        *[pytest.param(name, marks=pytest.mark.long) for name in (*LONG, "a thought in the prompt", "names")],
    ],
)
def test_the_trainers_train_on_every_text_with_a_corrected_template(tmp_path: Path, name: str, layout: str):
    """What each trainer leaves is rendered by its own tokenizer, and by the stock one, with every text."""
    make_dataset(tmp_path, episodes=12, environments=12, turns=4, layout=layout)
    model = model_with(tmp_path / "model", name)
    options: dict[str, Any] = {"preset": "tiny", "store": str(tmp_path), "settings": ["disable_tqdm=true"]}
    train_rm("toys/rewards", model, tmp_path / "rm", **options)
    train_sft("toys/rewards", model, tmp_path / "sft", **options)
    options |= {"policy_adapter": str(tmp_path / "sft")}
    make_dataset(tmp_path, "toys/pairs", episodes=24, environments=12, turns=1, layout=layout, splits=quarters)
    train_dpo("toys/pairs", model, tmp_path / "dpo", **options)
    train_grpo("toys/rewards", model, tmp_path / "grpo", reward_model=str(tmp_path / "rm"), **options)
    scored = api.score("toys/rewards", str(tmp_path / "rm"), store=str(tmp_path), out="toys/scored")
    assert scored["rows"] == 48
    for use in USES:
        check_right(AutoTokenizer.from_pretrained(tmp_path / use), use, layout)
    (asked,) = {AutoTokenizer.from_pretrained(tmp_path / use).chat_template for use in ("sft", "dpo", "grpo")}
    assert asked  # the policy is asked as it was when it was cloned


def test_a_policy_that_names_a_channel_before_its_answer_is_asked_with_that_channel():
    """What it wrote would be read as the channel's name and the answer, and never as an action."""
    for name, asks_as_it_is in (("channels", False), ("a wrapped answer", True), ("a thought", True)):
        tokenizer = tokenizer_with(name)
        prepare_template(tokenizer, "grpo")
        assert (tokenizer.chat_template == TEMPLATES[name]) == asks_as_it_is
    prepare_template(tokenizer := tokenizer_with("channels"), "grpo")
    prompt, answer = dialogue("chat")
    asked = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(prompt + answer, tokenize=False)
    assert whole == asked + answer[0]["content"] + "<|eos|>"


def test_cloning_by_trl_learns_the_answer_alone_with_a_corrected_template(tmp_path: Path):
    from sotopia_rl_data.trainers.config import PolicySFTConfig, configure
    from sotopia_rl_data.trainers.data import load_rows
    from sotopia_rl_data.trainers.encoding import dialogues, tokenizer_of
    from sotopia_rl_data.trainers.policies import build_sft_trainer

    ref = make_dataset(tmp_path, episodes=6, environments=6, turns=4, layout="chat")
    for name in ("system at the last user", "no system", "a thought", "an open thought", "two roles", "no asking"):
        model = model_with(tmp_path / name, name)
        options = {"dataset": ref, "model": model, "output_dir": str(tmp_path / "out"), "store": str(tmp_path)}
        config = configure(PolicySFTConfig, preset="tiny", options=options)
        data = load_rows(ref, store=tmp_path, need_reward=False)
        tokenizer = tokenizer_of(config)
        fitted = dialogues(data, Encoder(tokenizer, 4096, "sft"), with_completion=True)
        trainer = build_sft_trainer(config, fitted, tokenizer)
        for row, said in zip(trainer.train_dataset, data.of("train"), strict=True):
            text = tokenizer.decode(row["input_ids"])
            assert all(message["content"] in text for message in (*said.prompt, *said.completion))
            learned = tokenizer.decode([token for token in row["labels"] if token != -100], skip_special_tokens=True)
            assert learned.strip() == said.completion[0]["content"]


def test_roles_that_a_template_refuses_are_refused_with_its_words():
    tokenizer = tokenizer_with("no system")
    prepare_template(tokenizer, "rm")
    twice = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]
    with pytest.raises(InputError, match="refuses a dialogue of the roles user, user, assistant: roles must alternate"):
        Encoder(tokenizer).encode([(twice, dialogue("chat")[1])])
