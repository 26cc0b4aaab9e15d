"""The forget manifest: three formats, one meaning, and everything wrong at once."""

import hashlib
import hmac
import re
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearn_hooks.errors import UnlearnError
from unlearn_plugin.manifest import ForgetManifest, list_some

TEXT = "# from the ticket\nrequest=R-17\nreceived=2026-01-05\n\ncat/001.png\nclass=dog\nid=class=odd.png\n"
CSV = "ID,class,subject,request,received\ncat/001.png,,,R-17,2026-01-05\n,dog,,,\n\nid=class=odd.png,,,R-17,\n"
JSONL = """{"request": "R-17", "received": "2026-01-05"}
{"id": "cat/001.png"}
{"class": "dog"}
{"id": "id=class=odd.png"}
"""


def read(folder: Path, name: str, content: str | bytes) -> ForgetManifest:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ForgetManifest.read(path)


def findings(folder: Path, name: str, content: str | bytes) -> list[str]:
    with pytest.raises(UnlearnError) as caught:
        read(folder, name, content)
    return list(caught.value.findings)


@pytest.mark.parametrize(("name", "content"), [("f.txt", TEXT), ("f.csv", CSV), ("F.JSONL", JSONL)])
def test_all_formats_say_the_same(tmp_path: Path, name: str, content: str) -> None:
    manifest = read(tmp_path, name, content)
    assert [(entry.kind, entry.name, entry.subject) for entry in manifest.entries] == [
        ("id", "cat/001.png", None),
        ("class", "dog", None),
        ("id", "class=odd.png", None),
    ]
    assert (manifest.request, manifest.received) == ("R-17", date(2026, 1, 5))


def test_entries_know_their_line_also_behind_comments_and_blank_lines(tmp_path: Path) -> None:
    assert [entry.line for entry in read(tmp_path, "f.txt", TEXT).entries] == [5, 6, 7]
    assert [entry.line for entry in read(tmp_path, "f.csv", CSV).entries] == [2, 3, 5]
    assert [entry.line for entry in read(tmp_path, "f.jsonl", JSONL).entries] == [2, 3, 4]


def test_class_entries_may_stand_in_the_id_column(tmp_path: Path) -> None:
    entry = read(tmp_path, "f.csv", "id\nclass=dog\n").entries[0]
    assert (entry.kind, entry.name) == ("class", "dog")


def test_ids_may_hold_commas_quotes_spaces_equal_signs_and_other_alphabets(tmp_path: Path) -> None:
    names = ['a, b/"c".png', "größe=7/猫.png", "with space.png"]
    quoted = "".join('"' + name.replace('"', '""') + '"\n' for name in names)
    assert [entry.name for entry in read(tmp_path, "f.csv", "id\n" + quoted).entries] == names
    assert [entry.name for entry in read(tmp_path, "f.txt", "\n".join(names)).entries] == names


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path: Path) -> None:
    assert [entry.name for entry in read(tmp_path, "f.csv", b"\xef\xbb\xbfid\r\n1\r\n2\r\n").entries] == ["1", "2"]
    assert [entry.name for entry in read(tmp_path, "f.txt", b"\xef\xbb\xbf1\r\n2\r\n").entries] == ["1", "2"]
    assert [entry.name for entry in read(tmp_path, "f.jsonl", b'{"id": 1}\r\n{"id": "2"}\r\n').entries] == ["1", "2"]


def test_subjects_are_read_where_they_are_given(tmp_path: Path) -> None:
    manifest = read(tmp_path, "f.csv", "id,subject\n1,anna\n2,\n3,bert\n")
    assert [entry.subject for entry in manifest.entries] == ["anna", None, "bert"]


@pytest.mark.parametrize(
    ("content", "kind"), [("1\n2\n", "samples"), ("class=a\n", "classes"), ("1\nclass=a\n", "samples and classes")]
)
def test_the_kind_tells_samples_from_classes(tmp_path: Path, content: str, kind: str) -> None:
    assert read(tmp_path, "f.txt", content).kind == kind


def test_request_and_date_may_be_absent(tmp_path: Path) -> None:
    manifest = read(tmp_path, "f.txt", "1\n")
    assert manifest.request is None
    assert manifest.received is None


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    found = findings(tmp_path, "f.csv", "id,request,received\n1,A1,2026-02-30\n1,B1,\n2\n,,\n")
    assert len(found) == 4
    assert "line 4: 1 cells where the first line names 3 columns" in found[0]
    assert "'1' (lines 2 and 3)" in found[1]
    assert "'A1' in line 2, 'B1' in line 3" in found[2]
    assert "received=2026-02-30" in found[3]


@pytest.mark.parametrize("name", ["f.txt", "f.csv", "f.jsonl"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_manifest_is_a_finding(tmp_path: Path, name: str, content: str) -> None:
    assert "is empty" in findings(tmp_path, name, content)[0]


def test_a_manifest_of_comments_and_a_reference_is_empty(tmp_path: Path) -> None:
    assert "is empty" in findings(tmp_path, "f.txt", "# nothing\nrequest=R-1\n")[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("cat/1.png\n", "line 1: it must name columns out of id, class, subject"),
        ("id,colour\n1,red\n", "line 1: it must name columns"),
        ("id,id\n1,1\n", "line 1: it must name columns"),
        ("subject\nanna\n", "line 1: it must name columns"),
        ("id,class\n1,a\n", "line 2: it must name either an id or a class"),
        ("id,subject\n,anna\n", "line 2: it must name either an id or a class"),
        ("id\nclass=\n", "line 2: it must name either an id or a class"),
        ('id\n"1\n', "no valid CSV"),
        ("id\na\0b\n", "line 2: "),
    ],
)
def test_a_malformed_csv_line_is_named(tmp_path: Path, content: str, words: str) -> None:
    assert words in findings(tmp_path, "f.csv", content)[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"id": "1"}\n{"id": \n', "line 2: no valid JSON"),
        ('"1"\n', "line 1: not an object"),
        ('{"id": "1", "why": "x"}\n', "line 1: it must have keys out of id, class"),
        ('{"id": ["1"]}\n', "line 1: a value is neither text nor a whole number"),
        ('{"id": true}\n', "line 1: a value is neither"),
        ("[" * 100_000 + "\n", "line 1: no valid JSON"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path: Path, content: str, words: str) -> None:
    assert words in findings(tmp_path, "f.jsonl", content)[0]


@pytest.mark.parametrize("day", ["5.1.2026", "2026-13-01", "20260105", "tomorrow", "2026-1-5"])
def test_a_bad_date_is_a_finding(tmp_path: Path, day: str) -> None:
    assert "YYYY-MM-DD" in findings(tmp_path, "f.txt", f"received={day}\n1\n")[0]


def test_long_lists_of_mistakes_are_cut_and_counted(tmp_path: Path) -> None:
    found = findings(tmp_path, "f.txt", "\n".join(["x", *(str(n) for n in range(9)), *(str(n) for n in range(9))]))
    assert found[0].count("(lines") == 5
    assert "and 4 more" in found[0]
    assert list_some(["a", "b"]) == "a, b"


@pytest.mark.parametrize("request_", ["Anna Smith 7", "anna", "anna1@example.org", "7" * 65, "Zoë-1"])
def test_a_reference_that_could_name_somebody_is_refused_since_it_is_published(tmp_path: Path, request_: str) -> None:
    (found,) = findings(tmp_path, "f.txt", f"request={request_}\n1\n")
    assert f"request={request_}, and the report would publish it; give a case number" in found
    assert read(tmp_path, "f.txt", "request=GDPR/2026:17#4_b.c\n1\n").request == "GDPR/2026:17#4_b.c"


def test_a_file_that_is_not_utf8_is_refused_with_the_byte(tmp_path: Path) -> None:
    assert "is not UTF-8 (byte 2)" in findings(tmp_path, "f.txt", b"a/\xff\xfe.png\n")[0]


def test_a_missing_file_a_folder_and_an_unknown_ending_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    for name, words in (
        ("none.csv", "There is no forget manifest"),
        ("folder.txt", "no forget manifest"),
        ("f.xlsx", ".jsonl"),
    ):
        with pytest.raises(UnlearnError, match=words):
            ForgetManifest.read(tmp_path / name)


def test_the_commitment_is_the_documented_hmac(tmp_path: Path) -> None:
    manifest = read(tmp_path, "f.csv", "id,class,subject\nb/ü.png,,anna\n,dog,\n")
    message = '[["class","dog",""],["id","b/ü.png","anna"]]'.encode()
    assert manifest.commitment(b"key") == hmac.new(b"key", message, hashlib.sha256).hexdigest()


def test_the_commitment_depends_on_entries_and_key_but_not_on_order_or_format(tmp_path: Path) -> None:
    one = read(tmp_path, "a.txt", "1\nclass=a\n2\n").commitment(b"k")
    assert read(tmp_path, "b.jsonl", '{"id": 2}\n{"class": "a"}\n{"id": 1}\n').commitment(b"k") == one
    assert read(tmp_path, "c.txt", "1\n2\n").commitment(b"k") != one
    assert read(tmp_path, "a.txt", "1\nclass=a\n2\n").commitment(b"other") != one


def test_the_examples_and_the_commitment_of_the_documentation_hold(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text().partition("## The forget manifest")[2]
    examples = re.findall(r"```(text|csv|json)\n(.*?)```", page, re.DOTALL)
    endings = {"text": "f.txt", "csv": "f.csv", "json": "f.jsonl"}
    text, table, objects = (read(tmp_path, endings[language], content) for language, content in examples[:3])
    assert [(entry.kind, entry.name) for entry in text.entries] == [(entry.kind, entry.name) for entry in table.entries]
    assert (text.request, text.received) == (table.request, table.received) == (objects.request, objects.received)
    message = re.search(r"`(\[\[.*\]\])`", page)[1].encode()
    expected = hmac.new(b"key", message, hashlib.sha256).hexdigest()
    assert table.commitment(b"key") == objects.commitment(b"key") == expected != text.commitment(b"key")


names = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Cf", "Co", "Cn", "Zs")), min_size=1)


@given(st.lists(names.filter(lambda name: not name.startswith(("class=", "id="))), min_size=1, unique=True))
def test_any_printable_ids_survive_csv(tmp_path_factory: pytest.TempPathFactory, ids: list[str]) -> None:
    content = "id\n" + "".join('"' + name.replace('"', '""') + '"\n' for name in ids)
    manifest = read(tmp_path_factory.mktemp("any"), "f.csv", content)
    assert [entry.name for entry in manifest.entries] == ids


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("f.txt", "subject=anna\n1\n"),
        ("f.csv", "id\nsubject=anna\n1\n"),
        ("f.jsonl", '{"id": "subject=anna"}\n{"id": 1}'),
    ],
)
def test_all_samples_of_a_subject_can_be_asked_for(tmp_path: Path, name: str, content: str) -> None:
    manifest = read(tmp_path, name, content)
    found = [(entry.kind, entry.name, entry.subject) for entry in manifest.entries]
    assert found == [("subject", "anna", "anna"), ("id", "1", None)]
    assert manifest.kind == "samples"
    message = b'[["id","1",""],["subject","anna","anna"]]'
    assert manifest.commitment(b"k") == hmac.new(b"k", message, hashlib.sha256).hexdigest()


def test_an_id_may_begin_with_subject_and_an_entry_has_one_subject(tmp_path: Path) -> None:
    assert read(tmp_path, "f.txt", "id=subject=anna\n").entries[0].name == "subject=anna"
    found = findings(tmp_path, "f.csv", "id,subject\nsubject=anna,bert\nsubject=,\n")
    assert "line 2: it names two subjects" in found[0]
    assert "line 3: it must name either an id or a class" in found[0]
