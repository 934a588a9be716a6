"""Whether a text may be a secret's value: drawn at random, and not made of words or filled with one character.

Behind a telling prefix or name little is asked of a value; with nothing but its form to go by, much.
"""

from __future__ import annotations

import base64
import re
from itertools import pairwise

_WORD = re.compile(r"[A-Z]?[a-z]{0,15}|[A-Z]{1,15}|[0-9]{1,4}|v[0-9]{1,3}")
_PART_OF_A_NAME = re.compile(
    rf"{_WORD.pattern}|[0-9]{{5,8}}|[a-z]{{1,12}}[0-9]|[A-Z]{{1,12}}[0-9]{{1,3}}|x509|(?:[A-Z][a-z]{{2,}}){{2,5}}"
)  # numbered names: oauth2, 000123
# A run of letters is read in one way alone: what can be split in many takes time without end where nothing matches.
_CAMEL_CASE = re.compile(r"(?:[A-Z]?[a-z]{2,}+|(?<![A-Z])[A-Z]{2,}(?![a-z]))+")
_NUMBERED_WORDS = re.compile(r"(?:[A-Z]{0,4}[a-z]{3,}+|[A-Z]{2,}+|(?<![0-9])[0-9]{1,4})+")  # OAuth2PasswordBearer
_SETTING = re.compile(r"[a-z]{0,12}[0-9]{0,6}e?")  # of a run's name: ppo-lora-r64-bs128-lr1e-5
_PLACEHOLDER = re.compile(  # or where the value is: arn:…, process.env.…, /run/…, vault:secret/data/…, raw/1.parquet
    r"^(?:[<>{}()\[$%]|&lt;|//|arn:|urn:|(?:[a-z]{2,8}\.){,2}env\."
    r"|[a-z0-9.-]+:[0-9]{1,5}=|(?:(?:[a-z-]{2,20}|[a-z]{2,}(?:[A-Z][a-z]{2,}){1,3})[:/]/?|[~.]{0,2}/)[a-z]{2,10}/)"
    r"|[<{\[(]|\.\.\.|…|\*{2}|://|(?i:example|x{5}|your[-_])|/[^/]+\.[a-z]{2,7}$|(?:/[^/]{1,2}){2}/"
)
_MADE_UP = re.compile(  # Sunny!Lake42, Welcome123!
    r"(?=.*[A-Z])(?=.*[a-z])(?=.*[0-9])\w+[!@#$%^&*?+~]+\w[\w!@#$%^&*?+~]*|(?!Sha[0-9])[A-Z][a-z]{2,12}[0-9]{3,6}[!@#$%&*?.]?"
)
_TOLD = re.compile(  # rel3ase#keys; tulip4garden; bluewhale42, Falcon-2291; marble-Otter-31
    r"(?=.*[A-Za-z])(?=.*[0-9])[\w.-]+[!@#$%^&*?+~][\w.!@#$%^&*?+~-]*|[\w-]*[A-Za-z][0-9]{1,2}[A-Za-z]{2}[\w!-]*"
    r"|[A-Za-z]{4,12}[-_.]?[0-9]{2,6}-?[A-Za-z!]{,4}|[0-9]{1,2}[A-Za-z]{4}[\w!-]*"
    r"|(?=.*[A-Z])(?=.*[a-z]{2})(?:[A-Za-z]{3,12}-){2,4}[0-9]{2,6}"
    r"|(?=.*[A-Z])[A-Za-z]{3,12}[._-][0-9]{1,4}[._-][A-Za-z]{3,12}"
)
_ALGORITHM = re.compile(
    r"(?i:pass|your|crypt|(?<![a-z])(?:sha-?[0-9]|md[0-9]|utf-?[0-9]|base[0-9]|oauth|argon|pbkdf|hmac|aes|http|ipv|[xv][0-9]))"
)
_FOR_ONE_APP = re.compile(  # as Google and WordPress give them
    "[\"'](?:[a-z]{4}(?: [a-z]{4}){3}|(?=.*[0-9])[A-Za-z0-9]{4}(?: [A-Za-z0-9]{4}){3,5})[\"']"
    "|[\"']?(?=.*[b-df-hj-np-tv-xz]{3})[a-z]{4}(?:-[a-z]{4}){3}[\"']?"
)
_TITLED = re.compile(r"(?=.*[A-Z])(?:[A-Za-z][a-z]+[._]){1,3}[0-9]{1,6}(?:[._][A-Za-z][a-z]+){,2}")  # Lake.7.Falcon
_NUMBERED = re.compile(rf"^(?!.*(?:{_ALGORITHM.pattern}))(?=.*[A-Za-z]{{3}}).*[0-9]")  # kettle-9-drum
_NO_WORD = re.compile(r"^(?:[A-Z0-9]*[B-DF-HJ-NP-TV-Z]{5}[A-Z0-9]*|[a-z0-9]*[b-df-hj-np-tv-z]{5}[a-z0-9]*)$")
_ADDRESS_OR_PATTERN = re.compile(r"://|\(\?[:=!<P]|\\[dsw]|[A-Za-z0-9]-[A-Za-z0-9][^\]\s]{0,20}\][+*{]")
_NAME = re.compile(r"(?!.*(?:[b-df-hj-np-tv-xz]{5}|[a-z][0-9]+[a-z]))\w+(?:(?:[.-]|::)\w+)*", re.ASCII)
_OF_CODE = re.compile(
    "|".join(
        (
            r"@[A-Z0-9_]+",  # a variable of a template
            r"--?[a-z][a-z-]*",  # an option
            r"[#.][a-z][a-z_-]*",  # a selector
            r"\.{1,2}/.*|\*\..*|[\w-]+/|#/.*",  # a path, a glob, a folder, a place in a schema
            r"[A-Z][a-z]+-(?:[A-Z][a-z]+)+",  # Get-Content
            r"[,\\].*|:\w.*|[a-z][a-z-]*=|[A-Za-z]+-",  # what is left of a list, a symbol, an attribute, a prefix
            r"(?:ctrl|alt|shift|cmd|meta)(?:\+\w+)+",  # keys of a keyboard
            r"[A-Za-z_]+(?:\.[A-Za-z_]+)+|.*::.*|\w+\?\..*",  # a name in another's space, options?.password
            r"[a-z]+:`.*",  # a role of reStructuredText
        )
    )
)
CACHE_KEY = re.compile(r"(?:[A-Za-z0-9.]{1,20}-){2,}(?:[0-9a-f]{40}|[0-9a-f]{64})")  # Linux-node-, and a digest
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_HOST_OR_FILE = re.compile(
    r"(?!.*[A-Za-z0-9]{20})[a-z0-9-]{1,30}(?:\.[a-z0-9-]{1,30})+\.[a-z]{2,6}|(?!.*[A-Za-z0-9]{20})[\w/-]{1,40}\.[a-z]{2,4}"
)
_NOT_PLAIN = re.compile(  # the hash of a password, an encrypted one, a variable, a pattern
    r"^(?:\$[\w-]{1,16}(?:\$|[&/:.]|$)|\{[A-Z0-9-]{2,12}\}|ENC[\[(])|[aA0]-[zZ9][aA0]-"
)
_SLUG = re.compile(r"[a-z]{2,12}-[a-z]{2,12}-")  # of a page's address, with its id behind it
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")


def is_a_name_of_code(text: str) -> bool:
    """Whether a text is a name in capitals and small letters (`GetTokenForUser`): its letters are those of words, and
    at most two numbers stand among them. Of keys of letters and digits, one of 400 is taken for one if it has 16
    characters, one of 10,000 if it has 24."""
    letters = re.sub("[^A-Za-z]", "", text)
    vowels, rare = len(re.findall("(?i)[aeiouy]", letters)), len(re.findall("(?i)[jqxz]", letters))
    return (
        bool(_NAME.fullmatch(text))
        and len(letters) >= 8
        and not letters.islower()
        and sum(map(len, re.findall("[A-Z]?[a-z]{2,}", text))) >= 0.84 * len(letters)
        and 0.25 * len(letters) <= vowels <= 0.6 * len(letters)
        and rare <= 1 + len(letters) // 12
        and len(re.findall("[0-9]+", text)) <= (0 if "-" in text else 2)
    )


def is_made_of_words(text: str, word: re.Pattern[str] = _WORD) -> bool:
    """Whether a text is made of words and short numbers, as names of files and models are."""
    parts = [part for part in re.split(r"[-_./]+", text) if part]
    return len(parts) > 1 and all(word.fullmatch(part) for part in parts)


def is_not_filled(text: str) -> bool:
    """Whether a text with the form of a key may be one: not the form filled with one character (hf_xxxxxxxx)."""
    return 3 * sum(len(run[0]) for run in re.finditer(r"(.)\1{7,}", text)) < len(text)


def has_no_words(text: str) -> bool:
    """Whether a text is neither words nor filled."""
    text = text.rstrip("=")
    settings = text.count("-") > 3 and all(map(_SETTING.fullmatch, text.split("-")))
    return not settings and not is_made_of_words(text) and is_not_filled(text) and not is_a_name_of_code(text)


def is_no_example(text: str) -> bool:
    """Whether a text is neither filled nor one of those that manuals give (AKIAIOSFODNN7EXAMPLE)."""
    return is_not_filled(text) and "EXAMPLE" not in text


def is_mixed(text: str) -> bool:
    """Whether letters and digits take turns in a text that is neither words nor filled."""
    return has_no_words(text) and not _SLUG.match(text) and any(c.isdigit() for c in text) and _changes(text)[0] > 0.2


def is_anything(_: str) -> bool:
    """What is asked where the form alone tells a secret."""
    return True


def _changes(text: str) -> tuple[float, int]:
    """How often small letters, capitals and digits take turns in a text (0 to 1), and how many of the three it has."""
    kinds = ["d" if c.isdigit() else "l" if c.islower() else "u" for c in text if c.isalnum()]
    return sum(a != b for a, b in pairwise(kinds)) / max(len(kinds), 1), len(set(kinds))


def looks_random(text: str) -> bool:
    """Whether a text behind a telling name looks drawn at random."""
    text = _PERCENT.sub("", text).rstrip("=")
    changes, kinds = _changes(text)
    if (
        _PLACEHOLDER.search(text)
        or is_made_of_words(text, _PART_OF_A_NAME)
        or is_a_name_of_code(text)
        or "::" in text
        or _HOST_OR_FILE.fullmatch(text)
        or _is_basic_of_a_manual(text)
        or (_NUMBERED_WORDS.fullmatch(text) and changes < 0.36 and not _NO_WORD.search(text))
        or len(set(text)) < 6
        or re.fullmatch("0x(?:[0-9a-fA-F]{,16}|[0-9a-fA-F]{40})", text)  # a number; an address
        or kinds == 1
        or not is_not_filled(text)
    ):
        return False
    if any(c.isdigit() for c in text):
        return changes > 0.08
    return len(text) >= 16 and changes > 0.25 and not all(map(_CAMEL_CASE.fullmatch, re.findall("[A-Za-z]+", text)))


def is_surely_random(text: str) -> bool:
    """Whether a text with nothing but a prefix before it was drawn from letters and digits: of three kinds (0.62 of all
    neighbours then differ in kind), or of small letters and digits (0.4 differ), or in base32 (0.3), if it is long and
    not hexadecimal; identifiers of answers and files are words, short, or hexadecimal."""
    changes, kinds = _changes(text)
    if CACHE_KEY.fullmatch(text) or is_a_name_of_code(text):
        return False
    if re.fullmatch("[A-Z2-7]{30,}", text):
        return changes > 0.12
    run = re.search("[a-z0-9]{30,}", text)
    return changes > (0.4 if kinds == 3 else 0.28) and (
        kinds == 3 or bool(run and re.search("[g-z]", run[0]) and re.search("[0-9]", run[0]))
    )


def is_unknown_token(text: str) -> bool:
    """Whether what stands behind some prefix was drawn at random: 24 characters of it, without the words before."""
    text = re.sub("^(?:[A-Za-z][a-z]{1,15}[-_])+", "", text)
    return len(text) >= 24 and is_surely_random(text)


def is_key(text: str) -> bool:
    """Whether a text behind a telling name is a key; of fewer than 16 characters, only one that was surely drawn."""
    return looks_random(text) if len(text) >= 16 else is_surely_random(text) and not _PLACEHOLDER.search(text)


def is_long_key(text: str) -> bool:
    """Whether a text behind the name of a key of whatever kind (`episode_key`) is secret: long, or surely drawn."""
    return is_key(text) and (len(text) >= 20 or text.isalnum() or is_surely_random(text))


def is_password(text: str) -> bool:
    """Whether what follows the name of a password is one: not a plain word, or quoted."""
    quoted = text[:1] in "\"'"
    if " " in text:  # of words in quotes, those of a sentence are none
        drawn = text.count(" ") < 3 and is_surely_random(text) and not _PLACEHOLDER.search(text)
        return drawn or bool(_FOR_ONE_APP.fullmatch(text))
    if _FOR_ONE_APP.fullmatch(text) or is_drawn_with_marks(text.strip("\"'`")):
        return True
    text = text.strip("\"'`")
    text = text.rstrip(".,;:!?)]") if quoted else re.sub(r"\)[.),;].*", "", text).rstrip(".,;!?)]`")
    if is_made_of_words(text.replace(":", "/")) and not (
        _NUMBERED.search(text) and (quoted or not re.search("[._]", text) or _TITLED.fullmatch(text))
    ):
        return False
    if _OF_CODE.fullmatch(text) or (not quoted and re.match(r".*:$|\?|!+[a-z][\w.]*$", text)):
        return False
    if re.fullmatch(r"[a-z0-9]+(?:[|][a-z0-9:]+)+", text):  # required|string|min:8
        return False
    if (
        _PLACEHOLDER.search(text)
        or len(text) < 6
        or "://" in text
        or re.match(r"~|/.*/|@.*\.|[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}/", text)
    ):
        return False
    if text[0] == "/" and not looks_random(text):
        return False
    letters = "".join(filter(str.isalpha, text))
    abroad = 2 * sum(not c.isascii() for c in letters) > len(letters)
    if (abroad and not (quoted and letters.lower() != letters)) or (text.isalpha() and not text.isascii()):
        return False  # a word of another language, as in a program's translations
    plain = re.fullmatch(r"[_-]?[A-Za-z][a-z]*(?:[A-Z][a-z]+)*|[A-Z_]+|[0-9.,:]{1,9}|(.)\1*", text)
    if plain and re.search("(?i)pass(?:word|wd|phrase|$)|secret|pwd", text):  # wrongPassword, testpassword
        return False
    return not plain or (quoted and len(text) >= 12)


def is_drawn_password(text: str) -> bool:
    """Whether what stands behind the name of a password, but not clearly as its value, was drawn at random, or made up
    as people do: a word with a capital, a digit and a mark inside, or three digits at its end."""
    text = text.strip("\"'")
    if len(text) < 8 or _PLACEHOLDER.search(text):
        return False
    return is_surely_random(text) or (len(text) >= 16 and looks_random(text)) or bool(_MADE_UP.fullmatch(text))


def is_told_password(text: str) -> bool:
    """Whether what a sentence or code says that a password is was drawn or made up, be it of a word and a number."""
    if _FOR_ONE_APP.fullmatch(text) or is_drawn_with_marks(text.strip("\"'")):
        return True
    text = text.strip("\"'").rstrip(".,;:)")
    turns = text.isalnum() and sum(map(str.isdigit, text)) > 2 and _changes(text)[0] > 0.35  # 237dg546fs9
    made_up = (
        len(text) >= 8
        and (turns or (len(text) < 200 and _TOLD.fullmatch(text)))
        and not _PLACEHOLDER.search(text)
        and not _ALGORITHM.search(text)
    )
    return bool(made_up) or is_drawn_password(text)


def is_surely_drawn(text: str) -> bool:
    """Whether one of the words near a password's name is that password."""
    text = text.rstrip(".,;:!?)")
    drawn = len(text) >= 8 and is_surely_random(text) and not _PLACEHOLDER.search(text)
    return drawn and not re.fullmatch("[A-Za-z]+:?", _from_base64(text))  # UGFzc3dvcmQ6 is the question for it


def is_given_password(text: str) -> bool:
    """Whether what an option for a password is given looks drawn."""
    return looks_random(text) or bool(_FOR_ONE_APP.fullmatch(text))


def is_drawn_path(text: str) -> bool:
    """Whether the last part of a hook's address is its secret: random, or letters that no word has, as they follow."""
    return looks_random(text) or bool(is_not_filled(text) and re.search("[bcdfghjklmnpqrstvwxz]{5}", text))


def has_symbols(text: str) -> bool:
    """Whether a quoted text was drawn from letters, digits and punctuation: no blanks, no address and no pattern."""
    marks = {c for c in text if not c.isalnum()}
    drawn = len(marks) >= 4 and _changes(text)[0] > 0.2 and any(map(str.isdigit, text))
    return drawn and not _ADDRESS_OR_PATTERN.search(text)


def is_drawn_with_marks(text: str, turns: float = 0.5) -> bool:
    """Whether a text was drawn from small letters, capitals, digits and punctuation, as generators of passwords do: it
    has all four, or many marks, at most half of it are marks, and this share of neighbours differs in kind (in code, up
    to 0.6)."""
    kinds = ["l" if c.islower() else "u" if c.isupper() else "d" if c.isdigit() else "m" for c in text]
    return bool(
        len(text) >= 10
        and text.isascii()
        and (len(set(kinds)) == 4 or (len(text) >= 16 and len(set(text) & set("!@#%^&*()[]<>?:;,|~=+-/.")) >= 4))
        and 1 + (len(text) < 16) <= kinds.count("m") <= len(text) // 2
        and sum(a != b for a, b in pairwise(kinds)) >= turns * len(text)
        and re.search(r"[^\w./:=+-]", text)  # which names, versions and addresses are joined by
        and not re.search(r"\s|[a-z]{6}|[A-Z]{6}", text)
        and not (_NOT_PLAIN.search(text) or _ADDRESS_OR_PATTERN.search(text))
    )


def is_password_in_url(text: str) -> bool:
    """Whether the password in a URL is one, and not the word that stands for it in a manual."""
    return is_drawn_with_marks(text) or (
        len(text) > 3
        and not re.fullmatch(
            r"(?i)(?:my|your|bad|user|db|cache|auth|api|[a-z_-]*[_-])?(?:pass(?:word|wd)?|pwd|pw|secret|token|key)|x-oauth-basic|x+|\*+|#?[<{$%\[].*",
            text,
        )
    )


def _from_base64(text: str) -> str:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode()
    except ValueError:
        return ""


def _is_basic_of_a_manual(text: str) -> bool:
    plain = _from_base64(text)
    return ":" in plain and plain.isprintable() and not is_basic(text)


def is_basic(text: str) -> bool:
    """Whether a text is `user:password` in base64, and not the words that stand for them in a manual."""
    plain = _from_base64(text)
    return ":" in plain and plain.isprintable() and is_password_in_url(plain.partition(":")[2])
