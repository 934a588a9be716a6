"""A place in a bucket on S3 or a server that speaks its protocol: the few calls that stores and ledgers make on it.

    s3://BUCKET/PREFIX            of the server that AWS_ENDPOINT_URL names, else of AWS

Credentials, region and server are those of the environment, else of the profile in ~/.aws; none is printed or kept.
Objects are written whole or not at all, and `create` writes one only where there is none: that is what commits a
version. Until the bucket has answered once, a call is given up soon; after that it is repeated for a minute.
"""

from __future__ import annotations

import configparser
import datetime
import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sotopia_rl_data.code import check_installed
from sotopia_rl_data.errors import StoreError, UsageError

if TYPE_CHECKING:
    from obstore.store import S3Store

# pathlib makes s3: of s3://, s3:/a of s3://a
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(?:/+(.*)|(?<=^[sS]3:|^[hH][fF]:))", re.DOTALL)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*|")
_CHUNK = 16 << 20  # bytes of one request: few enough to come in time on a slow line
_CONFLICTS = 10
_OTHERS_KNOW = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


def is_address(text: str | os.PathLike[str]) -> bool:
    """Whether this is written as an address (`s3://…`) and not as a path."""
    return bool(_SCHEME.fullmatch(os.fspath(text)))


def spelled(place: str | os.PathLike[str]) -> str:
    """A place as it is told: a path, or an address with both slashes, of which pathlib keeps one."""
    found = _SCHEME.fullmatch(os.fspath(place))
    return f"{found[1]}://{found[2] or ''}" if found else os.fspath(place)


@dataclass(frozen=True, slots=True)
class Object:
    """An object of a bucket: its key below the prefix, how many bytes it has, and a mark (`etag`) that its content
    changes."""

    key: str
    size: int
    etag: str


def write_ranges(read_range: Callable[[int, int], bytes], size: int, path: Path) -> str:
    """Write `size` bytes to a new file, as `read_range` gives them from a start on; returns their SHA-256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for start in range(0, size, _CHUNK):
            data = read_range(start, min(_CHUNK, size - start))
            digest.update(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class Bucket:
    """The objects below `s3://BUCKET/PREFIX`. Every call raises StoreError where the bucket refuses or is away."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        """Reads the address only. Raises UsageError where it is none that can be used."""
        found = _SCHEME.fullmatch(os.fspath(address))
        scheme, rest = (found[1].lower(), (found[2] or "").rstrip("/")) if found else ("", "")
        if scheme != "s3":
            raise UsageError(
                f"An address that begins with {scheme}:// cannot be used here.",
                "name a folder, or s3://BUCKET/PREFIX; --store reads hf://datasets/ORG/NAME too",
            )
        name, _, prefix = rest.partition("/")
        self.name: str = name
        if not _BUCKET.fullmatch(self.name) or not _PREFIX.fullmatch(prefix) or {".", ".."} & set(prefix.split("/")):
            raise UsageError(
                "What follows s3:// is not the name of a bucket and a prefix.",  # it is not shown: it may hold a key
                "write s3://BUCKET/PREFIX: BUCKET has 3 to 63 small letters, digits, '.' and '-', PREFIX letters, "
                "digits, '.', '_', '-' and '/'; keys belong in the environment",
            )
        self._prefix = f"{prefix}/" if prefix else ""
        self.address = f"s3://{self.name}/{prefix}".rstrip("/")
        self._answered = False

    def __repr__(self) -> str:
        return f"Bucket({self.address!r})"

    @cached_property
    def endpoint(self) -> str:
        """The server's address; "" is AWS."""
        named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        url = (named or _profile().get("endpoint_url") or "").rstrip("/")
        if url and not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):  # obstore would panic
            raise UsageError(
                "The S3 server's address is not a URL.", "export AWS_ENDPOINT_URL=https://HOST, or unset it for AWS"
            )
        return url

    @property
    def manifest_hint(self) -> str:
        """What to do about a version whose manifest is damaged."""
        return "restore it, as a bucket with versioning can, or remove it: then the version is gone for all machines"

    def address_of(self, name: str, version: str) -> str:
        """Where a version of the store in this place is."""
        return f"{self.address}/{name}/{version}"

    @property
    def folder_name(self) -> str:
        """The name of a folder on this machine for what is there: another for each server, bucket and prefix."""
        return f"{self.name}-{hashlib.sha256(f'{self.endpoint} {self.address}'.encode()).hexdigest()[:16]}"

    @cached_property
    def _region(self) -> str:
        named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        return named or _profile().get("region") or "us-east-1"

    @cached_property
    def _hasty(self) -> S3Store:
        return self._client(2, 20)

    @cached_property
    def _patient(self) -> S3Store:
        return self._client(10, 60)

    def _client(self, retries: int, seconds: int) -> S3Store:
        from obstore.store import S3Store

        given: Any = _credentials(self.address) | {"region": self._region}
        if self.endpoint:
            given["endpoint"] = self.endpoint
        return S3Store(
            self.name,
            config=given,
            client_options={
                "connect_timeout": "5s",
                "timeout": "60s",
                "allow_http": self.endpoint.startswith("http://"),
            },
            retry_config={"max_retries": retries, "retry_timeout": datetime.timedelta(seconds=seconds)},
        )

    @contextmanager
    def _calling(self) -> Iterator[S3Store]:
        """The client; its errors become ours. A missing object stays a FileNotFoundError, an existing one a
        FileExistsError."""
        check_installed("A store in a bucket", "obstore", extra="s3")
        import obstore.exceptions as raised

        try:
            yield self._patient if self._answered else self._hasty
            self._answered = True
        except raised.AlreadyExistsError as error:
            raise FileExistsError from error
        except raised.InvalidPathError:
            raise StoreError(
                f"Below {self.address} is an object whose name cannot be used: a part of it is '.', '..' or empty, or "
                "holds a control character.",
                "remove it, or name another prefix",
            ) from None
        except (FileNotFoundError, raised.BaseError) as error:
            missing = isinstance(error, FileNotFoundError | raised.NotFoundError)
            if missing and "NoSuchBucket" not in str(error):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.address) from error
            raise self._refused(str(error)) from None  # the text may hold an access key

    def _at(self) -> str:
        return f"at {self.endpoint}" if self.endpoint else "on AWS"

    def _refused(self, text: str) -> StoreError:
        """What went wrong, in one sentence. Of the client's text only the server's code is told."""
        found = re.search(r"<Code>(\w+)</Code>", text)
        status = re.search(r"status code: (\d+)", text)
        code = found[1] if found else f"HTTP status {status[1]}" if status else ""
        if code == "NoSuchBucket":
            return StoreError(
                f"There is no bucket {self.name!r} {self._at()}.",
                "create it, or name another: s3://BUCKET/PREFIX; the server is that of AWS_ENDPOINT_URL, else AWS",
            )
        if code == "RequestTimeTooSkewed":
            return StoreError(
                f"The clocks of this machine and of the server of the bucket {self.name!r} differ by minutes.",
                "set this machine's clock, then run the command again",
            )
        if code == "NotImplemented":
            return StoreError(
                f"The server of the bucket {self.name!r} {self._at()} has no conditional writes, which are needed.",
                "name a bucket of a server that has them: AWS, R2, or a recent MinIO or Ceph",
            )
        if (status and status[1] in ("401", "403")) or "169.254" in text or "InstanceCredential" in text:
            return StoreError(
                f"The bucket {self.name!r} {self._at()} refuses these credentials{f' ({code})' if code else ''}.",
                "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of someone who may read and write it",
            )
        if "PermanentRedirect" in text or (status and status[1] == "301") or code == "AuthorizationHeaderMalformed":
            return StoreError(
                f"The bucket {self.name!r} is in another region than {self._region}.", "export AWS_REGION=…"
            )
        if code:
            return StoreError(
                f"The bucket {self.name!r} {self._at()} answers {code}.",
                "run the command again; nothing was half-written",
            )
        return StoreError(
            f"The bucket {self.name!r} {self._at()} cannot be reached.",
            "check the network, AWS_ENDPOINT_URL and AWS_REGION, then run the command again",
        )

    def list(self, below: str = "", after: str = "") -> Iterator[Object]:
        """The objects below a folder, in the order of their keys; those `after` a key only."""
        with self._calling() as client:
            for page in client.list(
                f"{self._prefix}{below}" or None, offset=f"{self._prefix}{after}" if after else None
            ):
                for meta in page:
                    yield Object(meta["path"].removeprefix(self._prefix), meta["size"], str(meta["e_tag"]))

    def read(self, key: str, most: int = 64 << 20) -> tuple[bytes, str]:
        """A small object and its mark. Raises FileNotFoundError."""
        with self._calling() as client:
            found = client.get(f"{self._prefix}{key}")
            if found.meta["size"] > most:
                raise StoreError(
                    f"{self.address}/{key} has more than {most:,} bytes.", "see what put it there, and remove it"
                )
            return bytes(found.bytes()), str(found.meta["e_tag"])

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object. Raises FileNotFoundError."""
        with self._calling() as client:
            return bytes(client.get_range(f"{self._prefix}{key}", start=start, length=length))

    def size(self, key: str) -> int | None:
        """How many bytes an object has; None where there is none."""
        try:
            with self._calling() as client:
                return int(client.head(f"{self._prefix}{key}")["size"])
        except FileNotFoundError:
            return None

    def download(self, key: str, size: int, path: Path) -> str:
        """Write the object's first `size` bytes to a new file; returns their SHA-256. Raises FileNotFoundError."""
        return write_ranges(partial(self.read_range, key), size, path)

    def write(self, key: str, data: bytes | Path) -> None:
        """Write an object, in the place of what was there. A file is sent in parts, and there when all of it is."""
        with self._calling() as client:
            client.put(f"{self._prefix}{key}", data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object where there is none; False where there is one, unless it is this one: a request whose answer
        was lost is repeated."""
        for _ in range(_CONFLICTS):
            try:
                with self._calling() as client:
                    client.put(f"{self._prefix}{key}", data, mode="create")
                return True
            except FileExistsError:
                with suppress(FileNotFoundError):
                    return self.read(key)[0] == data
            time.sleep(0.5)  # the server is at another request for this key (409), which may fail yet
        raise self._refused("<Code>ConditionalRequestConflict</Code>")


def _credentials(address: str) -> dict[str, str]:
    """The client's settings for who asks. Raises StoreError where nobody has said it."""
    if os.environ.get("AWS_SKIP_SIGNATURE", "").lower() == "true":
        return {"skip_signature": "true"}
    given = {
        "aws_access_key_id": os.environ.get("AWS_ACCESS_KEY_ID", ""),
        "aws_secret_access_key": os.environ.get("AWS_SECRET_ACCESS_KEY", ""),
        "aws_session_token": os.environ.get("AWS_SESSION_TOKEN", ""),
    }
    for place in (given, _profile()):
        if place.get("aws_access_key_id") and place.get("aws_secret_access_key"):
            return {key: place[key] for key in given if place.get(key)}
    if not os.environ.keys().isdisjoint(_OTHERS_KNOW):
        return {}  # the client asks there
    raise StoreError(
        f"There are no credentials for {address}.",
        "export AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…, or AWS_PROFILE=…; "
        "for a public bucket AWS_SKIP_SIGNATURE=true",
    )


def _profile() -> dict[str, str]:
    """What ~/.aws says of the profile; nothing where there are no such files, or they cannot be read."""
    name = os.environ.get("AWS_PROFILE") or "default"
    found: dict[str, str] = {}
    home = os.path.expanduser("~/.aws")
    files = {
        os.environ.get("AWS_CONFIG_FILE") or f"{home}/config": name if name == "default" else f"profile {name}",
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or f"{home}/credentials": name,
    }
    for path, section in files.items():
        parser = configparser.RawConfigParser()
        with suppress(OSError, configparser.Error, UnicodeDecodeError):
            parser.read(path, encoding="utf-8")
            found |= dict(parser.items(section)) if parser.has_section(section) else {}
    return found
