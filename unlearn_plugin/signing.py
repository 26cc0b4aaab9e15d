"""Signing: an Ed25519 signature of an output's statement, in a DSSE envelope. Needs the extra ``sign``."""

import base64
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import SIGNATURE, STATEMENT, check_digests, check_statement, write_whole

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["PublicKey", "Signer", "check_signature", "generate_key", "is_encrypted", "pae", "require_extra"]

_PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class PublicKey:
    """Whose signature is expected.

    Attributes:
        keyid: The key itself, 32 bytes as 64 hex digits: short enough to be read out, and it cannot collide.
    """

    keyid: str

    @classmethod
    def load(cls, path: Path) -> "PublicKey":
        """Read a public key.

        Args:
            path: PEM file, as `generate_key` and ``openssl pkey -pubout`` write it.

        Returns:
            The key.

        Raises:
            UnlearnError: If it cannot be read, or is no Ed25519 public key; or the extra is missing.
        """
        require_extra()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        content = _read(path)
        try:
            key = load_pem_public_key(content)
        except (ValueError, UnsupportedAlgorithm) as error:
            secret = b"PRIVATE KEY" in content
            what = "a private key; keep it to yourself, and" if secret else "no public key in a PEM file;"
            raise UnlearnError(f"{str(path)!r} is {what} give the public one, such as key.pub.pem.") from error
        if not isinstance(key, Ed25519PublicKey):
            raise UnlearnError(f"{str(path)!r} is no Ed25519 key; `unlearn keygen` makes one.")
        return cls(key.public_bytes_raw().hex())

    def fits(self, signature: bytes, message: bytes) -> bool:
        """Whether a signature of a message was made with this key's private half.

        Args:
            signature: 64 bytes.
            message: What was signed.

        Returns:
            Whether it fits.
        """
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.keyid)).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class Signer:
    """A private key, ready to sign."""

    key: "Ed25519PrivateKey"

    @classmethod
    def load(cls, path: Path, passphrase: str | None = None) -> "Signer":
        """Read a private key.

        Args:
            path: PEM file, as `generate_key` and ``openssl genpkey -algorithm ed25519`` write it.
            passphrase: What it is encrypted with, if it is.

        Returns:
            The signer.

        Raises:
            UnlearnError: If it cannot be read, or is no Ed25519 private key; or the extra is missing.
        """
        require_extra()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        content = _read(path)
        secret = passphrase.encode() if passphrase and is_encrypted(path) else None
        try:
            key = load_pem_private_key(content, secret)
        except TypeError as error:
            raise UnlearnError(f"{str(path)!r} is encrypted; give its passphrase when asked.") from error
        except (ValueError, UnsupportedAlgorithm) as error:
            what = "cannot be opened with that passphrase" if secret else "is no private key in a PEM file"
            raise UnlearnError(f"{str(path)!r} {what}; `unlearn keygen` makes a key.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UnlearnError(f"{str(path)!r} is no Ed25519 key; `unlearn keygen` makes one.")
        return cls(key)

    @property
    def public(self) -> PublicKey:
        """The half that others check with."""
        return PublicKey(self.key.public_key().public_bytes_raw().hex())

    def sign(self, folder: Path) -> Path:
        """Sign an output folder: write ``evidence/report.dsse.json``.

        Args:
            folder: As `unlearn_plugin.evidence.write_digests` finished it.

        Returns:
            The signature's file.

        Raises:
            UnlearnError: If the folder is signed already, or its files are not those of its digests and statement.
        """
        place = folder / SIGNATURE
        if place.exists():
            raise UnlearnError(f"{str(folder)!r} is signed already; remove {SIGNATURE} to sign it anew.")
        if findings := check_digests(folder) or check_statement(folder):
            raise UnlearnError.of([f"{finding} Nothing was signed." for finding in findings])
        payload = (folder / STATEMENT).read_bytes()
        write_whole(place, _envelope(payload, self.key.sign(pae(_PAYLOAD_TYPE, payload)), self.public.keyid))
        return place


def generate_key(path: Path, passphrase: str | None = None) -> PublicKey:
    """Make a key pair: the private key for its owner's eyes, and beside it the public one, ``NAME.pub.pem``.

    Args:
        path: File of the private key, ``NAME.pem``; written with mode 0600.
        passphrase: Encrypts the private key, if given.

    Returns:
        The public key.

    Raises:
        UnlearnError: If one of the files exists already or cannot be written; or the extra is missing.
    """
    require_extra()
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public_path = path.with_suffix(".pub.pem")
    if path.suffix != ".pem" or path.name.endswith(".pub.pem"):
        raise UnlearnError(f"{str(path)!r} is no name for a private key; take one like key.pem.")
    for place in (path, public_path):
        if place.exists():
            raise UnlearnError(f"{str(place)!r} exists already, and no key is ever overwritten; take another name.")
    key = Ed25519PrivateKey.generate()
    hidden = form.BestAvailableEncryption(passphrase.encode()) if passphrase else form.NoEncryption()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, hidden)
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    _create(path, private, mode=0o600)
    _create(public_path, public, mode=0o644)
    return Signer(key).public


def is_encrypted(path: Path) -> bool:
    """Whether a private key asks for a passphrase.

    Args:
        path: PEM file.

    Returns:
        Whether it is encrypted.

    Raises:
        UnlearnError: If the file cannot be read.
    """
    return b"ENCRYPTED" in _read(path)


def check_signature(folder: Path, key: PublicKey | None = None) -> list[str]:
    """Check the signature of an output folder's statement; whether the statement is true is `check_statement`'s matter.

    Args:
        folder: An output folder.
        key: Whose signature it must be. If left out, the signature is held against the key it names itself, which
            shows damage, and not who signed.

    Returns:
        What is wrong with it, in one sentence; empty if it is sound.

    Raises:
        UnlearnError: If the extra is missing.
    """
    require_extra()
    if not (folder / SIGNATURE).exists():
        return [f"{SIGNATURE} is missing: nobody signed this output, or the signature was taken away."]
    try:
        content = (folder / SIGNATURE).read_bytes()
        envelope = json.loads(content)
        signatures, payload = envelope["signatures"], base64.b64decode(envelope["payload"], validate=True)
        first = signatures[0]
        keyid, signature = str(first["keyid"]), base64.b64decode(first["sig"], validate=True)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError):  # the forms damage takes
        return [f"{SIGNATURE} is damaged: it is no DSSE envelope with a signature."]
    if not re.fullmatch("[0-9a-f]{64}", keyid):
        return [f"{SIGNATURE} is damaged: {keyid!r} is no name of a key."]
    if len(signatures) != 1:
        return [f"{SIGNATURE} holds {len(signatures)} signatures; one is expected."]
    if content != _envelope(payload, signature, keyid):
        return [f"{SIGNATURE} was changed: it is not in the form in which it is written."]
    if key is not None and keyid != key.keyid:
        return [f"{SIGNATURE} was made with the key {keyid}, and not with the one given, {key.keyid}."]
    if not (key or PublicKey(keyid)).fits(signature, pae(_PAYLOAD_TYPE, payload)):
        return [f"{SIGNATURE} does not hold a signature by the key {keyid} of what it says."]
    if not (folder / STATEMENT).is_file() or payload != (folder / STATEMENT).read_bytes():
        return [f"{SIGNATURE} is the signature of another statement than {STATEMENT}."]
    return []


def pae(payload_type: str, payload: bytes) -> bytes:
    """Bytes that are signed: the payload with its type and their lengths, so that neither can pass for the other.

    Formula: "DSSEv1" SP LEN(type) SP type SP LEN(payload) SP payload, with decimal lengths in bytes.

    Args:
        payload_type: Media type of the payload.
        payload: What is signed.

    Returns:
        The pre-authentication encoding.

    Source: DSSE v1.0.2, https://github.com/secure-systems-lab/dsse/blob/master/protocol.md.
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def require_extra() -> None:
    """See that the extra ``sign`` is installed.

    Raises:
        UnlearnError: If it is not.
    """
    try:
        import cryptography  # noqa: F401  # whether it is there is the question
    except ImportError as error:
        raise UnlearnError(
            "Signatures need the extra `sign`, which is not installed: pip install 'unlearn-plugin[sign]'."
        ) from error


def _envelope(payload: bytes, signature: bytes, keyid: str) -> bytes:
    content: dict[str, Any] = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": _PAYLOAD_TYPE,
        "signatures": [{"keyid": keyid, "sig": base64.b64encode(signature).decode()}],
    }
    return (json.dumps(content, indent=2) + "\n").encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnlearnError(f"The key {str(path)!r} cannot be read ({error.strerror}); check the path.") from error


def _create(path: Path, content: bytes, *, mode: int) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
    except OSError as error:
        raise UnlearnError(
            f"The key {str(path)!r} cannot be written ({error.strerror}); take another place."
        ) from error
