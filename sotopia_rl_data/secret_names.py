"""Keys and passwords that have no shape, but a name before them: `WANDB_API_KEY=…`, `password: "…"`.

A name only raises the suspicion: `password: required` names a password without telling it. How random the value
behind it is decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from sotopia_rl_data.secret_shapes import VALUE, Found
from sotopia_rl_data.secret_values import (
    CACHE_KEY,
    UUID,
    has_symbols,
    is_drawn_with_marks,
    is_key,
    is_long_key,
    is_made_of_words,
    is_password,
    is_surely_drawn,
    is_surely_random,
    is_told_password,
    looks_random,
)

_KEYS = """
api access secret private auth account master signing encryption admin service deploy license licence storage
subscription consumer client shared function host application app project server webhook root personal
"""
_OTHER_KEYS = """
_key keyvalue key_value key-data key_data token secret credential credentials _pat -pat auth _dsn
sessionid session_id session-id .login _session authorization _jwt bearer
schlüssel chiave clé ключ токен 密钥 密鑰 令牌 トークン キー
"""
_KEY_NAMES = (*(f"{word}{joint}key" for word in _KEYS.split() for joint in ("", "-", " ", ".")), *_OTHER_KEYS.split())
_KINDS_OF_KEY = tuple(f"{word}_key" for word in _KEYS.split())
_ONE_WORD = """
password passwd passphrase passcode pwd psk pword pswd passwort kennwort contraseña contrasena clave
senha heslo hasło wachtwoord lösenord passord adgangskode salasana jelszó şifre parola пароль
密码 密碼 口令 パスワード 비밀번호 패스워드 비번 암호 סיסמה κωδικός पासवर्ड รหัสผ่าน
"""
_PASSWORDS = (*_ONE_WORD.split(), "mot de passe", "كلمة المرور", "kata sandi", "mật khẩu")
_PASSWORD_NAMES = (*_PASSWORDS, "_pass", "-pass", "&pass", "?pass", "_pw", "-pw")
SECRET_NAMES = (*_KEY_NAMES, *_PASSWORD_NAMES)
_PLURALS = tuple(f"{name}s" for name in SECRET_NAMES)
_ABOUT_A_KEY = {
    *("id", "ids", "name", "names", "url", "uri", "length", "size", "type", "path", "file", "hash", "count"),
    *("version", "arn", "limit", "index", "alias"),
    *("sock", "mode", "method", "backend", "algorithm", "alg", "issuer", "provider", "format", "scope"),
    *("fingerprint", "digest", "prefix", "suffix", "hint", "user", "email", "identifier", "header", "label"),
    *("domain", "host", "ref", "uid", "sha", "md"),
}
_ANY_NAME = "|".join(map(re.escape, SECRET_NAMES))
SUSPICIOUS_NAMES = (
    rf"(?i:(?:{_ANY_NAME}|(?m:^|[^a-z])key|[a-z]key|pass|\bpw|(?-i:[a-z0-9]Pw)|creds|log-?in|[a-z]pat)s?"
    r"(?:[^a-z0-9]*(?:[:=>,{(|→：＝\"'`]|&quot|&#3|</|%[0-9]|is\b|was\b|value|default)"
    r"|[^\n]*[0-9]))|(?i:\bdefault(?:_?value)?[\"']?\s*[=:]|\breturn\s[\"'`])"
)
"""A pattern that matches every text in which `named` finds something (for RE2, too)."""
LONGEST_TOKEN = 1000  # characters
_LONGEST_NAME = 40  # characters looked at before a separator, with quotes and blanks
_STATEMENT = 160  # characters in which the name of a default stands
_SENTENCE = 80  # characters behind a name in which a word is looked for that was drawn
_LONGEST_DRAWN = 100  # characters of a password that a generator drew

_ENGLISH = r"key|token|secret|credential|auth|pat\b|dsn|session|pass|pw|creds|log-?in|bearer|_jwt|value|default"
_FOREIGN = tuple(name for name in SECRET_NAMES if not re.search(_ENGLISH, name))
_TELLING, _TELLING_ABROAD = re.compile(_ENGLISH), re.compile("|".join((_ENGLISH, *_FOREIGN)))
_PUBLIC_WORDS = (
    "public|publishable|web_?socket|verif[a-z]{1,8}|cache|partition|primary|foreign|sort|routing|idempotency|dedupe?|"
    "request|gpg|did:|site|dns|sheet|pub|peer|row|object|surrogate|identifier|repository"
)
_CURSORS = "(?:page|pagination|continuation|sync|cursor|authenticity)"  # where a listing goes on, or a form is from
_HASHED = r"(?:hashed|checksum|(?:sum|hash|digest|fingerprint|md5|sha-?[0-9]{1,3}) of(?: the| a| your)?)[_ /-]?\w+"
PUBLIC = re.compile(
    rf"(?i)(?:(?:{_PUBLIC_WORDS})[_ -]?keys?(?:[_ -]?token)?|{_CURSORS}[_ -]?token|[0-9]:secret|[\"'`]__key|{_HASHED})$"
)
_PUBLIC_KEYS = re.compile(r"\W{1,12}kty\b")  # of a JSON Web Key Set
_DIGEST_OF = re.compile(r"(?i)(?:md5|sha[0-9_-]{1,5}|hash|crypt)\([^()\n]{0,24}\)\s?$")
_A_NAME = re.compile(rf"(?:{_ANY_NAME})(?![a-z])")
_OF_A_HEADER = re.compile(r"(?:^|[^a-z])x-[a-z-]+-key$")
_BARE_PASS = re.compile(  # mail_pass, dbpass; but not compass
    r"(?:^|[\n{,;<\"'])\s{0,12}pass$|(?:^|[^a-z])pw$|(?:db|user|store|key|smtp|mail|sql|admin|root|bind|ftp|ssh|auth|wifi)pass$"
)
_PAIR = re.compile(r"(?i)\b(?:key|name)[\"']?\s?[=:]\s?[\"']?([\w.-]+)[\"']?[,\s]+[\"']?value[\"'\s]*$")
_DEFAULT = re.compile(r"default(?:_?value)?$")  # variable "password" { default = …; ("--api-key", type=str, default=…)
_BODY = re.compile(  # def api_key(self) -> str: return …; string Key { get; set; } = …; val key: String by lazy { …
    r"(?:\(\w{0,12}\)\s{0,3}(?:(?:->|:)\s?)?[&'\w.<>\[\]]{0,24}\s{0,3}[:{]?|\{\s?get;[\w\s;]{0,20}\}?|\s?\bby\s\w{1,12})\s*$"
)
_AFTER_A_NAME = re.compile(
    r"""(?:["'`\\)\]}*\s]|&quot;|&#3[49];|%2[27]|\sis|\swas|\s?\([^()"']{1,20}\)|\[[0-9]\]|\.(?:value|default|equals|type|fill|val)"""
    r"""|</[\w-]+>(?:\s|\\[nrt])*<(?:string|value|data|t[dh]|dd))+$"""
)
_TYPE = re.compile(  # let apiKey: string = …
    r"""(?:[?!]?:\s?(?!true|false|null)[&A-Za-z_.<\[][\w.<>\[\]|?]{1,24}|\sstring|\s\w{1,12}="\w{1,12})$"""
)
_QUOTED = r"""(?=[A-Za-z@]{0,2}["'])"""
_SEPARATOR = re.compile(
    rf"""(?!\w)(?::=|\?{{1,2}}=|\|\|=|={{1,3}}|[=-]>|<-|[:>→：＝]|\|(?=[\s`*])|[({{]\s?{_QUOTED}|\|\||\?\?|%3[AaDd]|\\+u003[ad]"""
    r"""|,(?=\s{0,20}["'`])|(?<=["'`]),|\s(?i:is|was|or|to|return)(?=\s["'`])"""
    r"""|\s(?:is|was|ist|lautet|es|est|è|é)(?=\s\S{8}))(?=.)""",
    re.DOTALL,
)
_WEAK = re.compile(r"^\s\w|[({|]|^,\s*[^\s\"'`]")  # what stands between a name and much else, too
_BEFORE_A_VALUE = re.compile(
    r"""(?:(?<!,)\s{1,40}(?=["'`])|\*{0,2}[ \t]{0,20}\s{0,3})"""
    r"""(?:[|>][-+]?\s{1,20}|!{1,2}\w{1,12}\s|&\w{1,12}\s|\s{0,9}-\s|<!\[CDATA\[)?"""  # YAML's
    rf"""(?:(?:[A-Za-z_.:]{{1,30}}\(|[\[({{:]{{1,2}})\s{{0,12}}{_QUOTED})?"""
    r"""(?:[A-Za-z]{1,2}(?=["'`])|@(?=["'])|["'](?=\\*["'][^"'\s]))?(?:&quot;|&#3[49];|%22|\\+|(?<==)\{(?=[^\s{}]+\}))?"""
)
_KEYS_SAID = ("key", "token", "secret")
_SAID = re.compile(  # the words of some languages stand close together
    rf"(?:\b(?:pass|pw|creds|credentials|log-?in)|{'|'.join((*_PASSWORDS, *_KEYS_SAID))})(?:s|e[nt]|[0-9])?"
    r"(?=[\s\"'`*:,?(是はが는은이])"
)
_KEY_SAID = re.compile(rf"(?i:(?:{_ANY_NAME}|[a-z] key))s?$")
_TOLD = re.compile(
    r"(?i:\b(?:is|was|it[’']s)|[:?→]|\b(?:pass(?:word|phrase|code)|pwd?|pass -))[\s\"'`]{1,3}$"
    r"|[是は은는：][\s\"'`「“]?$"
)
_WORD = re.compile(r"[!#-&*+./:=?-_a-z{}~-]*[0-9][!#-&*+./0-:=?-_a-z{}~-]*")
_CODE = re.compile(r"[({]\s?\w+:")  # sign_in({ email: user1Email, password })
_END = re.compile(r"[.!]\s|\n|\bENC[\[(]")  # a question may be answered; what is encrypted tells nothing
_AN_ID = re.compile(r"(?:[iI]d[\"']?\s?[:=]\s?|\bid\s|(?:(?i:sha)-?[0-9]{1,3}|h1)[:=])[\"']?$")
_ADDRESS = re.compile(
    r"^0x[0-9a-fA-F]{1,40}$|^(?:org|proj|req|user|sha[0-9]{1,3})[-_]|://|\.[^.]*/|/.*\.[a-z]{2,7}$|.=.|^[/~@]|@|^AAAA"
)
_ALONE = re.compile("[,\\[]\\s*[\"'`]pass(?:word|wd)?$")  # "ann", "password", "ROLE_1"
_ESCAPED = re.compile(r"\\u[0-9a-fA-F]{4}")  # another alphabet, in a file of translations
_THEN_A_COLON = re.compile(r"[\"'`]?\s*:")
_SHA1 = re.compile("[0-9a-f]{40}")
_LOCKED = re.compile(r"(?:^|\s) {2}[A-Z][a-z]+(?:[A-Z][A-Za-z]+)?(?:Auth|Sessions?)$")
_NAMED_KEY = re.compile(rf"[\"'`]?({VALUE}{{12,}})")
_REST = re.compile(rf"{VALUE}*")
_NAMED_SECRET = re.compile(rf"[\"'`]?({VALUE}{{8,}})")
_SYMBOLS = re.compile(r"(?P<quote>[\"'`])((?:(?!(?P=quote))\S){16,})(?P=quote)")
_ANOTHER = re.compile(r"[,;&]\w{2,}[.:=(]")  # the next name of an object or an address
_OF_A_SHELL = re.compile("[A-Z_][A-Z0-9_]=")
_DRAWN = re.compile(r"[\"'`]?((?:(?!</|&(?:quot|#3))[^\s\"'`\\]){10,})")
_HEADER = re.compile(rf"[\"'`]?(?:[A-Za-z]{{3,10}} +)?({VALUE}{{16,}})")
_NAMED_PASSWORD = re.compile(r"\"[^\n\"]{6,}\"|'[^\n']{6,}'|(?:[^\s\"',;}&<>\\]|&amp;(?!\w+=)|&(?!\w+[=;]|#)){6,}")


def small_letters(text: str) -> str:
    """A text in small letters, as long as before: there are capitals (İ) whose small letter is two characters."""
    small = text.lower()
    return small if len(small) == len(text) else "".join(c.lower() if c.isascii() else c for c in text)


def named(text: str) -> Iterator[Found]:
    """The keys and passwords with a name and a separator before them. The separators are rarer than the names.

    The first `LONGEST_TOKEN` characters of a value decide, so that a text made of names takes time in proportion to
    its length.
    """
    past = said = 0  # what came before was looked at, or is in the value found last
    small = small_letters(text)
    telling_words = _TELLING_ABROAD if any(name in small for name in _FOREIGN) else _TELLING
    for telling in telling_words.finditer(small):
        for separator in _SEPARATOR.finditer(text, max(past, telling.end()), telling.end() + _LONGEST_NAME):
            if separator.start() < past:
                continue
            one = _value(text, *separator.span())
            past = one.end if one else separator.end()
            if one:
                yield one
        if telling.start() >= said and (name := _SAID.match(small, telling.start())) and (one := _said(text, name)):
            said = one.end
            yield one


def _said(text: str, name: re.Match[str]) -> Found | None:
    """The first word behind a name in the same sentence that was drawn: "the password of the box is …"."""
    before = text[max(name.end() - 30, 0) : name.end()]
    if PUBLIC.search(before) or _PUBLIC_KEYS.match(text, name.end()):
        return None
    shortest = 16 if name[0].startswith(_KEYS_SAID) else 8
    end = _END.search(text, name.end(), name.end() + _SENTENCE)
    limit = end.start() if end else name.end() + _SENTENCE
    for word in _WORD.finditer(text, name.end(), limit):
        start = word.start() + (0 if "://" in word[0] else word[0].rfind(":") + 1)
        said = text[start : word.end()].rstrip(".!?}")
        if len(said) < shortest or _ADDRESS.search(said) or _AN_ID.search(text, max(start - 8, 0), start):
            continue
        told = _TOLD.search(text, name.start(), start) and not _CODE.search(text, name.end(), start)
        hexadecimal = len(said) >= 32 and told and _KEY_SAID.search(before)
        password = shortest == 8 and told and name[0][:3] != "log" and is_told_password(said)
        if is_surely_drawn(said) or password or (hexadecimal and looks_random(said)):
            rest = _REST.match(text, limit) if word.end() == limit and not end else None
            if (
                CACHE_KEY.fullmatch(said)
                or _ESCAPED.search(text, start - 1, start + len(said))
                or text.startswith(" = ", word.end())
            ):  # credentials: Web3Credentials = …
                continue
            return Found("a key or password in a sentence", start, rest.end() if rest else start + len(said))
    return None


def _value(text: str, start: int, end: int) -> Found | None:
    """What stands behind the separator text[start:end], if a name before it and the value itself say: a secret."""
    opening = _BEFORE_A_VALUE.match(text, end)
    end = opening.end() if opening else end
    name, weak = _name_before(text, start), _WEAK.search(text[start : end + 1])
    if PUBLIC.search(name) or _DIGEST_OF.search(text, max(start - _LONGEST_NAME, 0), start):
        return None
    if name.endswith(_PASSWORD_NAMES):
        shape, pattern, group = "a password", _NAMED_PASSWORD, 0
        holds = is_told_password if weak or (text[start] == "," and _ALONE.search(name)) else is_password
    elif name.endswith((*_KEY_NAMES, "-key", " key")):
        shape, pattern, group = "a named key", _HEADER if name.endswith("authorization") else _NAMED_KEY, 1
        holds = is_key if name.endswith(_KEY_NAMES) or _OF_A_HEADER.search(name) else is_surely_random
        if name.endswith("_key") and not name.endswith(_KINDS_OF_KEY):
            holds = is_long_key
        if name.endswith("secret") and not weak:
            pattern, holds = _NAMED_SECRET, is_told_password
    else:
        return None
    drawn = _DRAWN.match(text, end, end + _LONGEST_DRAWN)
    bare = drawn and drawn[0] == drawn[1] and not _OF_A_SHELL.match(text, max(start - 2, 0))  # and may be code
    another = weak or (drawn and _ANOTHER.search(drawn[1]))
    if drawn and not (bare and another) and is_drawn_with_marks(drawn[1], 0.6 if bare else 0.5):
        return Found(shape, *drawn.span(1))
    if group == 1 and (symbols := _SYMBOLS.match(text, end, end + LONGEST_TOKEN)) and has_symbols(symbols[2]):
        return Found(shape, *symbols.span(2))
    value = pattern.match(text, end, end + LONGEST_TOKEN)
    if value and (_is_code(text, start, value, group) or _ESCAPED.match(text, value.start() - 1)):
        return None
    if value and name.endswith("id") and UUID.match(value[group]):
        return None  # of a session of work; one that logs in stands in a cookie
    if value and holds(value[group]) and (whole := pattern.match(text, end)):
        return Found(shape, *whole.span(group))
    return None


def _is_code(text: str, start: int, value: re.Match[str], group: int) -> bool:
    """Whether the value behind the separator at `start` is a call, a name that another is compared with, a type, the
    next name of an object or a file, or a digest in the list of a lock file (`FirebaseAuth: …`)."""
    if text[value.start() - 1] in "\"'`" or value[0][0] in "\"'`":
        return text[start] == "," and bool(_THEN_A_COLON.match(text, value.end()))
    compared = text.startswith("==", start) and value[group].rstrip(")").isalnum() and not is_key(value[group])
    another = text[value.start() - 1] == "\n" and "=" in value[group].rstrip("=")
    a_type = text.startswith("->", start) and value[group].endswith(":")
    a_host = text[start] == ">" and value[group][0] == "@"  # <user>:<password>@host
    if compared or another or a_type or a_host or text[value.end() : value.end() + 1] == "(":
        return True
    return bool(_SHA1.fullmatch(value[group]) and _LOCKED.search(text, max(start - _LONGEST_NAME, 0), start))


@cache
def names_a_secret(variable: str, value: str) -> bool:
    """Whether an environment variable holds a secret, as its name says; a value of plain words is one only where the
    name ends in what it is (`API_TOKEN`, but `TOKEN_TYPE=service-account` tells none)."""
    name = _name_before(variable, len(variable))
    if variable in ("PWD", "OLDPWD") or "session" in name or PUBLIC.search(variable):
        return False
    if re.search(r"(?i)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PAT|CREDENTIALS?)$", variable):
        return True
    tells = name.endswith(SECRET_NAMES) or re.search(r"(?i)(?:_AUTH|(?<!ASK)(?<!BY)(?<!COM)PASS)$", variable)
    plain = is_made_of_words(value) or value.isalpha() or value.isdigit() or value.startswith(("/", "~/"))
    return bool(tells) and not plain


def _name_before(text: str, end: int) -> str:
    """The end of the name that stands before a separator, in small letters, without a number or a last part that does
    not say what the value is (`SECRET_KEY_BASE`, `API_TOKEN_2`, `name: API_TOKEN, value: …`)."""
    before = text[max(end - _LONGEST_NAME, 0) : end]
    name = _snake_case(_AFTER_A_NAME.sub("", _BODY.sub("", before)))
    if name.endswith("value") and (pair := _PAIR.search(text, max(end - 2 * _LONGEST_NAME, 0), end)):
        name = _snake_case(pair[1])
    elif _DEFAULT.search(name):
        names = _A_NAME.findall(_snake_case(re.split(r";|\n\s*\n", text[max(end - _STATEMENT, 0) : end])[-1]))
        return str(names[-1]) if names else ""
    if _BARE_PASS.search(name):
        return "password"
    for whole in (name, _AFTER_A_NAME.sub("", _TYPE.sub("", name))):
        name = whole.rstrip("0123456789 _")
        stem, _, last = name.rpartition("_")
        if not name.endswith(SECRET_NAMES) and last.isalnum() and last not in _ABOUT_A_KEY:
            name = stem if stem.endswith(_KEY_NAMES) else name
        name = name[:-1] if name.endswith(_PLURALS) else name
        if name.endswith(SECRET_NAMES):
            break
    return "password" if _BARE_PASS.search(name) else name


def _snake_case(name: str) -> str:
    """A name in small letters, with a line where a capital began a part of it (`stripeKey` is `stripe_key`)."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
