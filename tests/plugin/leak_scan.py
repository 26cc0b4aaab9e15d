"""Looks for what must not be published, in every byte of a folder and through every wrapping that we know of."""

import base64
import binascii
import hashlib
import html
import io
import json
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from PIL import Image

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{24,}={0,2}")
_NUMBER = re.compile(r"(?<![\w.])-?\d+\.\d+(?:[eE][-+]?\d+)?(?![\w.])")
_CLOCK = re.compile(r"(?<![\d:])\d\d:\d\d:\d\d(?![\d:])")
_EPOCH = re.compile(r"(?<!\w)1\d{9}(?!\w)")
_DIGITS = 6  # of a score, that give it away; a report holds no fewer, and of four some agree by chance


@dataclass(frozen=True)
class Secrets:
    """What must not be found: words in any case, digests of pictures, and scores of single samples."""

    words: frozenset[str]
    digests: frozenset[bytes]
    scores: tuple[float, ...]


def picture_digests(path: Path) -> set[bytes]:
    """Digests a picture can be recognised by: of its file, and of its pixels in grey and in colour."""
    with Image.open(path) as picture:
        contents = [path.read_bytes(), *(np.asarray(picture.convert(mode)).tobytes() for mode in ("L", "RGB"))]
    return {hashlib.new(kind, content).digest() for content in contents for kind in ("md5", "sha1", "sha256")}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leaks(files: Mapping[str, bytes], secrets: Secrets) -> list[str]:
    """One line for each thing found, with the wrappings it was found in."""
    found = set()
    for name, content in files.items():
        for where, inner in [(name, name.encode()), *_unwrap(name, content)]:
            found |= {f"{where}: {what}" for what in _look(inner, secrets)}
    return sorted(found)


def _unwrap(where: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """The content itself, and whatever is packed or written in another way inside."""
    yield where, content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for entry in archive.infolist():
                yield f"{where} > zip", entry.filename.encode()
                yield from _unwrap(f"{where} > {entry.filename}", archive.read(entry))
    if content.startswith(b"\x89PNG"):
        yield from ((f"{where} > PNG", text) for text in _png_texts(content))
    for match in _BASE64.finditer(content):
        try:
            inner = base64.b64decode(match[0].translate(bytes.maketrans(b"-_", b"+/")), validate=True)
        except binascii.Error:
            continue
        yield from _unwrap(f"{where} > base64", inner)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    for how, read in (("HTML", html.unescape), ("percent", unquote), ("JSON", _unescape)):
        if (plain := read(text)) != text:
            yield f"{where} > {how}", plain.encode("utf-8", "replace")


def _unescape(text: str) -> str:
    r"""JSON's \u and \/ undone."""
    return re.sub(r"\\(u[0-9a-fA-F]{4}|/)", lambda match: json.loads(f'"{match[0]}"'), text)


def _png_texts(content: bytes) -> Iterator[bytes]:
    place = 8
    while place + 8 <= len(content):
        size, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + size]
        place += 12 + size
        if kind in (b"tEXt", b"iTXt", b"eXIf", b"tIME"):
            yield body
        if kind == b"zTXt":
            yield zlib.decompress(body.partition(b"\0")[2][1:])


def _look(content: bytes, secrets: Secrets) -> Iterator[str]:
    lower = content.lower()
    for word in secrets.words:
        if any(word.lower().encode(code) in lower for code in ("utf-8", "utf-16-le", "utf-16-be")):
            yield f"the word {word!r}"
    for digest in secrets.digests:
        if digest.hex().encode() in lower or digest in content:
            yield f"the digest {digest.hex()} of a picture"
    for one, other in zip(secrets.scores, secrets.scores[1:], strict=False):
        if struct.pack("<2f", one, other) in content or struct.pack("<d", one) in content:
            yield f"the score {one} in binary"
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return
    yield from (f"the time {match[0]}, finer than a minute" for match in _CLOCK.finditer(text))
    yield from (f"the time {m[0]} in seconds" for m in _EPOCH.finditer(text) if abs(int(m[0]) - time.time()) < 86_400)
    yield from _printed_scores(text, secrets.scores)


def _printed_scores(text: str, scores: tuple[float, ...]) -> Iterator[str]:
    """Numbers that are a score, rounded to as many digits as they have or to six."""
    rounded: dict[int, set[float]] = {}
    for match in _NUMBER.finditer(text):
        digits = max(_DIGITS, len(re.sub(r"[eE].*|\D", "", match[0]).lstrip("0")))
        if digits not in rounded:
            rounded[digits] = {abs(float(f"{score:.{digits}g}")) for score in scores}
        if abs(float(match[0])) in rounded[digits]:
            yield f"the score {match[0]}"
