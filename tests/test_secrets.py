"""What has the shape of a key, a token or a password is found; what only looks or talks like one is not."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import string
import time
import uuid
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sotopia_rl_data import secret_shapes
from sotopia_rl_data.secrets import HIDDEN, SUSPICIOUS, env_secrets, found, redact

DRAW = random.Random(20250803)
HEX, SMALL = "0123456789abcdef", string.ascii_lowercase
WORD = string.ascii_letters + string.digits
CAPITALS = string.ascii_uppercase + string.digits


def drawn(count: int, letters: str = WORD) -> str:
    return "".join(DRAW.choice(letters) for _ in range(count))


SECRETS = {  # a text that holds one, by whose it is
    "OpenAI": f"sk-proj-{drawn(80)}",
    "Anthropic": f"sk-ant-api03-{drawn(80, WORD + '-_')}",
    "OpenRouter": f"sk-or-v1-{drawn(64, HEX)}",
    "Hugging Face": f"hf_{drawn(34)}",
    "Google": f"AIza{drawn(35, WORD + '-_')}",
    "Google OAuth, access": f"ya29.{drawn(60, WORD + '-_')}",
    "Google OAuth, client": f"GOCSPX-{drawn(28, WORD + '-_')}",
    "AWS, id": f"AKIA{drawn(16, CAPITALS)}",
    "AWS, secret": f"aws_secret_access_key = {drawn(40, WORD + '+/')}",
    "AWS, session": f"AWS_SESSION_TOKEN={drawn(200, WORD + '+/')}",
    "GitHub": f"ghp_{drawn(36)}",
    "GitHub, fine": f"github_pat_{drawn(22)}_{drawn(59)}",
    "GitLab": f"glpat-{drawn(20, WORD + '-_')}",
    "GitLab, runner": f"glrt-{drawn(20, WORD + '-_')}",
    "Slack": f"xoxb-{drawn(12, HEX[:10])}-{drawn(12, HEX[:10])}-{drawn(24)}",
    "Slack, app": f"xapp-1-{drawn(11, CAPITALS)}-{drawn(13, HEX[:10])}-{drawn(64, HEX)}",
    "Slack, hook": f"https://hooks.slack.com/services/T{drawn(8, CAPITALS)}/B{drawn(8, CAPITALS)}/{drawn(24)}",
    "Discord, hook": f"https://discord.com/api/webhooks/{drawn(18, HEX[:10])}/{drawn(68, WORD + '-_')}",
    "Telegram": f"{drawn(9, '123456789')}:AA{drawn(33, WORD + '-_')}",
    "Telegram, in a URL": f"https://api.telegram.org/bot{drawn(9, '123456789')}:AA{drawn(33)}/sendMessage",
    "npm": f"npm_{drawn(36)}",
    "npm, registry": f"//registry.example.org/:_authToken={drawn(36)}",
    "PyPI": f"pypi-AgEIcHlwaS5vcmc{drawn(60, WORD + '-_')}",
    "Stripe": f"sk_live_{drawn(24)}",
    "Stripe, hook": f"whsec_{drawn(32)}",
    "SendGrid": f"SG.{drawn(22)}.{drawn(43)}",
    "Mailgun": f"key-{drawn(32, HEX)}",
    "Mailchimp": f"{drawn(32, HEX)}-us12",
    "Twilio": f"SK{drawn(32, HEX)}",
    "Azure storage": f"AccountName=lab;AccountKey={drawn(86, WORD + '+/')}==;EndpointSuffix=core.windows.net",
    "Azure, signature": f"https://a.blob.core.windows.net/c/f?sv=2022-11-02&sig={drawn(43)}%3D",
    "Azure, service bus": f"SharedAccessKeyName=Root;SharedAccessKey={drawn(43, WORD + '+/')}=",
    "Azure OpenAI": f"AZURE_OPENAI_API_KEY={drawn(32, HEX)}",
    "Azure, header": f"Ocp-Apim-Subscription-Key: {drawn(32, HEX)}",
    "Groq": f"gsk_{drawn(52)}",
    "xAI": f"xai-{drawn(80)}",
    "NVIDIA": f"nvapi-{drawn(64, WORD + '-_')}",
    "Replicate": f"r8_{drawn(37)}",
    "LangSmith": f"lsv2_pt_{drawn(32, HEX)}_{drawn(10, HEX)}",
    "Weights & Biases": f"WANDB_API_KEY={drawn(40, HEX)}",
    "Cohere": f"COHERE_API_KEY={drawn(40)}",
    "Docker": f"dckr_pat_{drawn(27, WORD + '-_')}",
    "Databricks": f"dapi{drawn(32, HEX)}",
    "DigitalOcean": f"dop_v1_{drawn(64, HEX)}",
    "Vault": f"hvs.{drawn(90, WORD + '-_')}",
    "a service that nobody knows": f"zork_tk_{drawn(40)}",
    "PEM": f"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA{drawn(40)}\n-----END OPENSSH PRIVATE KEY-----",
    "PGP": f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQOYBF{drawn(58)}",
    "JWT": f"eyJ{drawn(33)}.eyJ{drawn(60)}.{drawn(43)}",
    "Bearer": f"Authorization: BEARER {drawn(40)}",
    "Basic": f"Authorization: Basic {base64.b64encode(b'user:hunter2').decode()}",
    "another scheme": f"authorization: token {drawn(40, HEX)}",
    "cookie": f"Cookie: sessionid={drawn(32)}",
    "database": f"postgres://me:{drawn(12)}@db.example.org/x",
    "query": f"https://example.org/data?token={drawn(32)}",
    "query, second": f"https://example.org/a?b=1&access_token={drawn(32, HEX)}",
    "JSON": f'"apiKey": "{drawn(32, HEX)}"',
    "client": f"client_secret={drawn(40)}",
    "password": 'password = "correct-horse9"',
    "password, JSON": "'DB_PASSWORD': 'hunter2!'",
    "password, variable": "MYSQL_PWD=S3cret99",
    "password, netrc": f"machine example.org login me password {drawn(24, HEX)}",
}


def lines_of(fixture: str) -> list[str]:
    return Path(__file__).with_name("fixtures").joinpath(fixture).read_text("utf-8").splitlines()


ORDINARY = lines_of("ordinary_lines.txt")
SHAPES = [line.split("\t", 1) for line in lines_of("secret_shapes.txt")]
SPELLINGS = lines_of("secret_spellings.txt")  # how languages and formats give a name N the value V
NOT_FOUND = {"cloudflare origin", "together hex bare named", "pushbullet"}  # hexadecimal, or a letter, and nothing else


def filled(name: str, template: str) -> tuple[str, list[str]]:
    """A line of `secret_shapes.txt` with drawn letters in place of {a32} …, and what in it is secret (between « »)."""
    draw = random.Random(name)
    letters = {"A": WORD, "a": SMALL + HEX[:10], "h": HEX, "n": HEX[:10], "w": WORD + "-_", "b": WORD + "+/", "p": WORD}
    letters |= {"L": string.ascii_letters, "U": CAPITALS, "B": CAPITALS}

    def put(hole: re.Match[str]) -> str:
        if hole[0] == "{u}":
            return str(uuid.UUID(int=draw.getrandbits(128), version=4))
        if hole[0] == "{basic}":
            return base64.b64encode(f"user:{draw.getrandbits(90):x}".encode()).decode()
        return "".join(draw.choice(letters[hole[1]]) for _ in range(int(hole[2])))

    line = re.sub(r"\{(?:u|basic|([AaLUBhnwbp])(\d+))\}", put, template)
    line = re.sub(r"(?<!\\)\\n", "\n", line).replace("\\\\n", "\\n")
    return re.sub("[«»]", "", line), re.findall("«(.*?)»", line, re.DOTALL)


@pytest.mark.slow
def test_hundreds_of_shapes_from_vendors_manuals_are_found_by_both_engines_and_hidden():
    missed, shown, unseen = [], [], []
    for name, template in SHAPES:
        line, secrets = filled(name, template)
        if not list(found(line)):
            missed.append(name)
            continue
        names, shapes = (pc.match_substring_regex(pa.array([line]), one)[0].as_py() for one in SUSPICIOUS)
        unseen += [] if list(found(line, names, shapes)) == list(found(line)) else [name]
        hidden = redact(line, loosely=False)
        pieces = [one[i : i + 12] for one in secrets for i in range(max(len(one) - 11, 1))]
        shown += [name] if any(piece in hidden for piece in pieces) else []
    assert len(SHAPES) >= 300
    assert (set(missed), shown, unseen) == (NOT_FOUND, [], [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["WANDB_API_KEY", "apiKey", "client_secret", "auth-token", "AccessToken", "password"])
def test_a_name_before_a_value_tells_in_every_spelling(name):
    missed = []
    for spelling in SPELLINGS:
        value = drawn(32, HEX if DRAW.random() < 0.5 else WORD)
        text = spelling.replace("{N}", name).replace("{V}", value).replace("\\n", "\n")
        seen = any(pc.match_substring_regex(pa.array([text]), one)[0].as_py() for one in SUSPICIOUS)
        missed += [] if seen and value not in redact(text, loosely=False) else [text]
    assert len(SPELLINGS) >= 100
    assert missed == []


@pytest.mark.parametrize(
    "template",
    [
        *('password = "{}"', "'DB_PASSWORD' => '{}',", "DB_PASSWORD={}", "password: {}", "<password>{}</password>"),
        *('the password is "{}", he said', "JWT_SECRET={}", 'SECRET_KEY = "{}"', "curl -u 'me:{}' https://example.org"),
    ],
)
def test_nine_of_ten_passwords_that_generators_draw_with_punctuation_are_found(template):
    draw, marks = random.Random(3), "!@#$%&*()-_=+[]{}<>:?"
    drawn_ones = ["".join(draw.choices(WORD + marks, k=20)) for _ in range(200)]
    places = [(template.format(one), template.index("{")) for one in drawn_ones]
    missed = [text for text, at in places if not any(one.start < at + 20 and at < one.end for one in found(text))]
    assert len(missed) <= 20, missed


@pytest.mark.slow
@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_a_secret_is_found_and_hidden_wherever_it_stands(text):
    for around in (text, f"Here it is: {text} (mine).", f"a\n{text}\nb"):
        assert list(found(around))
        assert not list(found(redact(around)))
        assert HIDDEN in redact(around)


def test_ordinary_lines_that_talk_or_look_like_secrets_are_let_through():
    assert len(ORDINARY) >= 450
    assert [line for line in ORDINARY if list(found(line))] == []


@pytest.mark.parametrize(
    "kind",
    [
        *("as it is", "blanks", "no width", "percent", "percent twice", "base64", "in a longer base64", "hexadecimal"),
        *("base64 in lines", "\\u", "&#", "cut off"),
    ],
)
def test_a_key_of_this_environment_is_hidden_however_it_comes_back(monkeypatch, kind):
    key = "correct-horse/battery+staple"
    monkeypatch.setenv("LAB_TOKEN", key)
    sent = {
        "as it is": key,
        "blanks": " ".join(key[i : i + 5] for i in range(0, len(key), 5)),
        "no width": "\u200b".join(key),
        "percent": quote(key, safe=""),
        "percent twice": "".join(f"%25{byte:02X}" for byte in key.encode()),
        "base64": base64.b64encode(key.encode()).decode(),
        "base64 in lines": "\n".join(re.findall("..?.?.?.?.?.?.?", base64.b64encode(key.encode()).decode())),
        "hexadecimal": key.encode().hex(),
        "\\u": "".join(f"\\u{ord(c):04x}" for c in key),
        "&#": "".join(f"&#{ord(c)};" for c in key),
        "in a longer base64": base64.b64encode(f"me:{key}".encode()).decode(),
        "cut off": f"{key[:14]}...",
    }[kind]
    told = redact(f"You sent {sent} to us.", loosely=False)
    assert told.startswith("You sent ")
    assert told.endswith(" to us.")
    assert HIDDEN in told
    assert len(told) < 40


def test_the_password_of_an_address_that_lost_a_slash_is_hidden():
    text = "The judges file https:/alice:Zq8vLx2mPw9s@h/x.yaml cannot be read."
    assert redact(text, loosely=False) == "The judges file https:/alice:[hidden]@h/x.yaml cannot be read."


def test_words_that_an_address_of_this_environment_has_in_place_of_a_password_are_not_secret(monkeypatch):
    for name in list(os.environ):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTPS_PROXY", "http://lab-user1:password@proxy:8080")
    monkeypatch.setenv("DATABASE_URL", "postgres://postgres:postgres@db/x")
    assert env_secrets() == {}
    monkeypatch.setenv("CACHE_URL", "redis://cache:correct-horse%21battery9@db?auth_token=Xy8kQ2mV7bTn4RzL")
    monkeypatch.setenv("HF_ENDPOINT", "https://Ab3dE5gH7jK9mN1p@hub.lab")
    secrets = {"correct-horse%21battery9", "correct-horse!battery9", "Xy8kQ2mV7bTn4RzL", "Ab3dE5gH7jK9mN1p"}
    assert set(env_secrets()) == secrets


@pytest.mark.parametrize(
    "name",
    [
        *("DB_PASSWORD", "DB_PASS", "MYSQL_PWD", "API_KEY_2", "OPENAI_API_KEYS", "APIKEY_PROD", "SMTP_PASSPHRASE"),
        *("HF_TOKEN_WRITE", "WANDB_AUTH", "GITHUB_PAT"),
    ],
)
def test_a_variable_that_is_named_as_a_secret_holds_one(monkeypatch, name):
    monkeypatch.setenv(name, "correct horse battery 7")
    assert env_secrets()["correct horse battery 7"] == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PWD", "/home/lab/dialogues"), ("OLDPWD", "/home/lab/dialogues"), ("SORT_KEY", "environment_id")),
        *(
            ("DESKTOP_SESSION", "ubuntu-wayland"),
            ("TOKEN_TYPE", "service-account"),
            *(
                ("CREDENTIAL_HELPER", "osxkeychain"),
                ("GIT_ASKPASS", "/usr/share/askpass.sh"),
                ("MAX_TOKENS", "100000000"),
            ),
            *(("BYPASS", "truecolor1"), ("COMPASS", "north-east1")),
        ),
    ],
)
def test_a_variable_that_is_named_otherwise_holds_none(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert value not in env_secrets()


@pytest.mark.parametrize("value", [os.fsdecode(b"\xff\xfe\x81secretbytes"), json.dumps({"key": "b" * 300}, indent=4)])
def test_no_value_of_the_environment_stops_or_slows_an_errors_words(monkeypatch, value):
    monkeypatch.setenv("LAB_CREDENTIALS", value)
    began = time.process_time()
    assert redact("{\n" + " " * 3000, loosely=False) == "{\n" + " " * 3000
    assert value not in redact(f"it is {value}")
    assert time.process_time() - began < 2


def test_a_providers_sentence_stays_readable_around_the_key():
    key = f"sk-proj-{drawn(40)}"
    says = "Incorrect API key provided: {}. You can find your API key at https://platform.openai.com/account/api-keys."
    for sent in (key, f"{key[:11]}{'*' * 20}{key[-4:]}"):
        assert redact(says.format(sent)) == says.replace("{}.", HIDDEN)
    for sentence in (
        "401 invalid x-api-key",
        "Missing Authorization header: send 'Authorization: Bearer YOUR_API_KEY'",
        "Limit 30000 on tokens per min (TPM) in organization org-abc123",
        "Access token expired, please log in",
        "API key not valid. Please pass a valid API key.",
    ):
        assert redact(sentence) == sentence


@pytest.mark.slow
def test_encoded_data_is_no_key_however_many_prefixes_it_holds_by_chance():
    data = random.Random(5).randbytes(3_000_000)
    for encoded in (base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()):
        assert list(found(f"picture: {encoded} (end)")) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "count"),
    [
        *(("token=", 4_000), ("pwd=/", 8_000), ("eyJ", 15_000), ("pass,", 20_000), ("nmcli ", 15_000)),
        *(("hook/", 20_000), ("pass\n\n", 20_000), ("a1bca1bc/", 10_000)),
        *(("password) values ((", 5_000), ("-a", 50_000), ("pdo1", 20_000), (":a", 50_000)),
    ],
)
def test_the_time_that_a_text_takes_grows_with_its_length_alone_even_if_it_is_made_of_names(part, count):
    parts = " ".join(shape.parts for shape in secret_shapes.SHAPES.values())  # so that every shape is looked for
    text, began = f"{parts}\n{part * count}", time.process_time()
    assert list(found(text)) == []
    assert redact(text) == text
    assert time.process_time() - began < 4


@pytest.mark.slow
def test_no_value_takes_time_that_doubles_with_each_of_its_letters():
    draw = random.Random(3)
    runs = [
        *(SMALL, SMALL.upper(), string.digits),
        *("a", "Ab", "aB", "AB1", "a1", "ABCd", "abcd-", "ab.", "/ab", "a!", "|a", "="),
    ]
    before = [*("", "token=", 'password: "', "the password is ", "--token ", "Authorization: Bearer ", 'client("')]
    before += ["https://discord.com/api/webhooks/1/", "Cookie: sid=", "zork_tk_", "hf_", "sk-"]
    for _ in range(200):
        value = "".join(run * draw.randint(1, 600 // len(run) + 1) for run in draw.choices(runs, k=draw.randint(1, 3)))
        for name in before:
            text, began = f"{name}{value[:2000]}{draw.choice(['', '!', 'é', '1'])}", time.process_time()
            list(found(text))
            assert time.process_time() - began < 1, text[:60]


def test_a_password_is_found_inside_a_value_that_is_not_a_secret():
    assert redact("auth=token:password=correct-horse9", loosely=False) == f"auth=token:password={HIDDEN}"


def test_a_long_token_is_hidden_to_its_end():
    token = drawn(3_000)
    assert redact(f"SESSION_TOKEN={token} (mine)", loosely=False) == f"SESSION_TOKEN={HIDDEN} (mine)"
