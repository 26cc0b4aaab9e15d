"""Signatures: the published test vectors, keys on disk, and every way in which a signature can be wrong."""

import base64
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.plugin.release_folder import make_folder
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.evidence import SIGNATURE, STATEMENT, check_digests, check_statement
from unlearn_plugin.signing import PublicKey, Signer, check_signature, generate_key, is_encrypted, pae

RFC_8032 = [  # section 7.1, tests 1 to 3: secret key, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659"
        "4a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "officer.pem"
    generate_key(path)
    return path


@pytest.fixture
def signed(tmp_path: Path, key: Path) -> Path:
    folder = make_folder(tmp_path / "out")
    Signer.load(key).sign(folder)
    return folder


def public(key: Path) -> PublicKey:
    return PublicKey.load(key.with_suffix(".pub.pem"))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the envelope and write it in the form we write."""
    path = folder / SIGNATURE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content, indent=2) + "\n")


def test_the_pre_authentication_encoding_is_that_of_the_specification() -> None:
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    assert pae("", b"") == b"DSSEv1 0  0 "
    assert pae("a/ü", b"\x00\xff") == b"DSSEv1 4 a/\xc3\xbc 2 \x00\xff"  # lengths count bytes


@pytest.mark.parametrize(("secret", "keyid", "message", "signature"), RFC_8032)
def test_keys_and_signatures_are_those_of_rfc_8032(secret: str, keyid: str, message: str, signature: str) -> None:
    signer = Signer(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))
    assert signer.public == PublicKey(keyid)
    assert signer.key.sign(bytes.fromhex(message)).hex() == signature
    assert signer.public.fits(bytes.fromhex(signature), bytes.fromhex(message))
    assert not signer.public.fits(bytes.fromhex(signature), bytes.fromhex(message) + b"x")
    assert not signer.public.fits(bytes.fromhex(signature)[:-1], bytes.fromhex(message))


def test_a_signed_folder_is_sound_and_its_digests_too(signed: Path, key: Path) -> None:
    assert check_signature(signed, public(key)) == check_signature(signed) == []
    assert check_digests(signed) == check_statement(signed) == []


def test_the_envelope_is_dsse_of_the_statement(signed: Path, key: Path) -> None:
    envelope = json.loads((signed / SIGNATURE).read_text())
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert base64.b64decode(envelope["payload"]) == (signed / STATEMENT).read_bytes()
    assert [entry["keyid"] for entry in envelope["signatures"]] == [public(key).keyid]


def test_openssl_checks_the_signature_with_the_public_key_file(signed: Path, key: Path, tmp_path: Path) -> None:
    envelope = json.loads((signed / SIGNATURE).read_text())
    (tmp_path / "signature").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    (tmp_path / "message").write_bytes(pae(envelope["payloadType"], (signed / STATEMENT).read_bytes()))
    words = ["pkeyutl", "-verify", "-pubin", "-inkey", key.with_suffix(".pub.pem"), "-rawin"]
    words += ["-in", tmp_path / "message", "-sigfile", tmp_path / "signature"]
    try:
        done = subprocess.run(["openssl", *words], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_missing_signature_is_a_finding(signed: Path, key: Path) -> None:
    (signed / SIGNATURE).unlink()
    (finding,) = check_signature(signed, public(key))
    assert finding.startswith("evidence/report.dsse.json is missing: nobody signed this output")


def test_another_key_is_named_beside_the_expected_one(signed: Path, key: Path, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other.pem")
    (finding,) = check_signature(signed, other)
    assert f"the key {public(key).keyid}, and not with the one given, {other.keyid}" in finding


def test_a_signature_under_the_name_of_another_key_is_wrong(signed: Path, tmp_path: Path) -> None:
    other = generate_key(tmp_path / "other.pem")
    edit(signed, lambda envelope: envelope["signatures"][0].update(keyid=other.keyid))
    (finding,) = check_signature(signed, other)
    assert "does not hold a signature by the key" in finding


def test_a_second_signature_is_a_finding(signed: Path, key: Path) -> None:
    edit(signed, lambda envelope: envelope["signatures"].append(envelope["signatures"][0]))
    assert check_signature(signed, public(key)) == [
        "evidence/report.dsse.json holds 2 signatures; one is expected."
    ]  # fmt: skip


def test_the_signature_of_another_statement_is_a_finding(signed: Path, key: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", seed=1)
    Signer.load(key).sign(other)
    (signed / SIGNATURE).write_bytes((other / SIGNATURE).read_bytes())
    assert check_signature(signed, public(key)) == [
        "evidence/report.dsse.json is the signature of another statement than evidence/statement.json."
    ]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda e: e.update(payloadType="text/plain"), "not in the form"),
        (lambda e: e.update(note="hello"), "not in the form"),
        (lambda e: e.update(signatures=[]), "no DSSE envelope"),
        (lambda e: e.pop("payload"), "no DSSE envelope"),
        (lambda e: e.update(payload="ä"), "no DSSE envelope"),
        (lambda e: e["signatures"][0].update(sig="AA=="), "does not hold a signature"),
        (lambda e: e["signatures"][0].update(keyid="officer"), "no name of a key"),
        (lambda e: e["signatures"][0].update(keyid=e["signatures"][0]["keyid"].upper()), "no name of a key"),
        (lambda e: e["signatures"][0].pop("keyid"), "no DSSE envelope"),
    ],
)
def test_a_damaged_envelope_is_a_finding(signed: Path, change: Callable[[dict[str, Any]], object], part: str) -> None:
    edit(signed, change)
    (finding,) = check_signature(signed)
    assert finding.startswith("evidence/report.dsse.json")
    assert part in finding


def test_a_changed_byte_anywhere_in_the_envelope_is_found(signed: Path, key: Path) -> None:
    content = (signed / SIGNATURE).read_bytes()
    for place in range(0, len(content), 11):
        changed = bytearray(content)
        changed[place] ^= 1
        (signed / SIGNATURE).write_bytes(changed)
        assert len(check_signature(signed, public(key))) == 1


def test_nothing_is_signed_twice_and_nothing_that_was_changed(signed: Path, key: Path) -> None:
    with pytest.raises(UnlearnError, match="is signed already; remove evidence/report.dsse.json"):
        Signer.load(key).sign(signed)
    (signed / SIGNATURE).unlink()
    (signed / "README.md").write_text("# All good")
    with pytest.raises(UnlearnError, match="README.md was changed. Nothing was signed."):
        Signer.load(key).sign(signed)
    assert not (signed / SIGNATURE).exists()


def test_the_private_key_is_for_its_owner_and_both_files_are_read_back(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = generate_key(tmp_path / "me.pem")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "me.pem").stat().st_mode) == 0o600
    assert sorted(os.listdir(tmp_path)) == ["me.pem", "me.pub.pem"]
    assert Signer.load(tmp_path / "me.pem").public == PublicKey.load(tmp_path / "me.pub.pem") == made
    assert not is_encrypted(tmp_path / "me.pem")


@pytest.mark.parametrize("there", ["me.pem", "me.pub.pem"])
def test_no_key_is_ever_overwritten(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(UnlearnError, match="exists already, and no key is ever overwritten"):
        generate_key(tmp_path / "me.pem")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {there: "precious"}


@pytest.mark.parametrize("name", ["key", "key.pub.pem", "key.json"])
def test_a_private_key_has_a_name_that_its_public_half_is_made_from(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnlearnError, match="take one like key.pem"):
        generate_key(tmp_path / name)


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnlearnError, match="cannot be written"):
        generate_key(tmp_path / "nowhere" / "me.pem")


def test_an_encrypted_key_opens_with_its_passphrase_alone(tmp_path: Path) -> None:
    path = tmp_path / "me.pem"
    made = generate_key(path, "correct horse")
    assert is_encrypted(path)
    assert Signer.load(path, "correct horse").public == made
    with pytest.raises(UnlearnError, match="cannot be opened with that passphrase"):
        Signer.load(path, "battery staple")
    with pytest.raises(UnlearnError, match="is encrypted; give its passphrase"):
        Signer.load(path)


def test_what_is_no_key_of_the_right_kind_is_refused_in_one_sentence(tmp_path: Path, key: Path) -> None:
    (tmp_path / "notes.pem").write_text("hello")
    curve = ec.generate_private_key(ec.SECP256R1())
    encodings = (form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    (tmp_path / "ec.pem").write_bytes(curve.private_bytes(*encodings))
    (tmp_path / "ec.pub.pem").write_bytes(
        curve.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    )
    for load, path, said in [
        (PublicKey.load, key, "is a private key; keep it to yourself"),
        (PublicKey.load, tmp_path / "notes.pem", "is no public key in a PEM file"),
        (PublicKey.load, tmp_path / "ec.pub.pem", "is no Ed25519 key"),
        (PublicKey.load, tmp_path / "none.pem", "cannot be read"),
        (Signer.load, key.with_suffix(".pub.pem"), "is no private key in a PEM file"),
        (Signer.load, tmp_path / "ec.pem", "is no Ed25519 key"),
        (Signer.load, tmp_path, "cannot be read"),
    ]:
        with pytest.raises(UnlearnError, match=said) as caught:
            load(path)
        assert "\n" not in str(caught.value)


def test_without_the_extra_one_sentence_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from pathlib import Path\n"
        "from unlearn_hooks.errors import UnlearnError\n"
        "from unlearn_plugin import signing\n"
        f"place = Path({str(tmp_path)!r})\n"
        "for act in (lambda: signing.generate_key(place / 'k.pem'), lambda: signing.Signer.load(place / 'k.pem'),\n"
        "            lambda: signing.PublicKey.load(place / 'k.pem'), lambda: signing.check_signature(place)):\n"
        "    try:\n"
        "        act()\n"
        "    except UnlearnError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert (
        done.stdout.splitlines()
        == ["Signatures need the extra `sign`, which is not installed: pip install 'unlearn-plugin[sign]'."] * 4
    )
