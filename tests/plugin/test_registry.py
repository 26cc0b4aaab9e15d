import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from tests.conftest import World
from unlearn_hooks.errors import UnlearnError
from unlearn_plugin import registry
from unlearn_plugin.registry import Family, metrics, searchable, unlearners

BASE = """
from abc import ABC, abstractmethod

class Tool(ABC):
    @abstractmethod
    def use(self): ...
"""
HAMMER = """
import enum
from dataclasses import dataclass, field
from typing import ClassVar, Literal
from toolbox.base import Tool

class Need(enum.Flag):
    NAIL = enum.auto()
    WALL = enum.auto()

@dataclass(frozen=True, kw_only=True)
class Hammer(Tool):
    needs: ClassVar[Need] = Need.NAIL
    summary: ClassVar[str] = "Hits."
    source: ClassVar[str] = "ours"
    weight: int = field(default=3, metadata={"help": "In kilograms."})
    swing: float = 0.5
    loud: bool = False
    colour: str = "red"
    grip: Literal["left", "right"] = "left"
    length: int | None = None

    def use(self): return self.weight
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    folder = tmp_path / "toolbox"
    folder.mkdir()
    for name, text in {"__init__": "", "base": BASE, "hammer": HAMMER, "_parts": "raise RuntimeError"}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "toolbox"]:
        monkeypatch.delitem(sys.modules, name)
    return Family("toolbox", "Tool", "toolbox.tools")


def add(family: Family, name: str, text: str) -> None:
    import toolbox

    (Path(toolbox.__path__[0]) / f"{name}.py").write_text(text)


def test_names_come_from_file_names_and_nothing_is_imported(family: Family) -> None:
    assert family.names() == ("hammer",)
    assert "toolbox.hammer" not in sys.modules
    assert "toolbox._parts" not in sys.modules


def test_the_names_of_the_real_families_are_found_without_loading_torch() -> None:
    root = Path(registry.__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'hooks')!r}]\n"
        "from unlearn_plugin.registry import metrics, unlearners\n"
        "assert {'mini', 'muda', 'finetune', 'retrain'} <= set(unlearners().names())\n"
        "assert 'membership' in metrics().names()\n"
        "assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_class_of_a_name_is_the_one_its_file_defines(family: Family) -> None:
    assert family.get("hammer").__name__ == "Hammer"
    assert family.get("hammer")().use() == 3


def test_every_real_method_and_metric_loads() -> None:
    for real in (unlearners(), metrics()):
        for name in real.names():
            assert real.get(name).__module__.endswith(f".{name}")


def test_an_unknown_name_is_answered_with_the_nearest_and_all_there_are(family: Family) -> None:
    with pytest.raises(UnlearnError, match="no tool called 'hamer'.*did you mean 'hammer'.*there are: hammer"):
        family.get("hamer")
    with pytest.raises(UnlearnError, match="no tool called 'xyzzy'; there are: hammer"):
        family.get("xyzzy")


@pytest.mark.parametrize("name", ["base", "_parts", "__init__"])
def test_what_is_no_method_cannot_be_asked_for(family: Family, name: str) -> None:
    with pytest.raises(UnlearnError, match="There is no tool"):
        family.get(name)


def test_a_file_with_two_methods_is_refused(family: Family) -> None:
    family.get("hammer")
    add(family, "pair", HAMMER + "\n\nclass Mallet(Hammer):\n    pass\n")
    with pytest.raises(UnlearnError, match="pair must define exactly one Tool, and it defines Hammer, Mallet"):
        Family("toolbox", "Tool", "toolbox.tools").get("pair")  # what there is is looked up once


def test_a_file_without_a_method_is_refused_even_if_it_imports_one(family: Family) -> None:
    family.get("hammer")
    add(family, "empty", "from toolbox.hammer import Hammer\n")
    with pytest.raises(UnlearnError, match="empty must define exactly one Tool, and it defines none"):
        Family("toolbox", "Tool", "toolbox.tools").get("empty")


def test_another_package_joins_by_entry_point(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("club", "toolbox.hammer:Hammer", "toolbox.tools")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [theirs] if group == "toolbox.tools" else [])
    assert family.names() == ("club", "hammer")
    assert family.get("club").__name__ == "Hammer"


def test_an_entry_point_that_is_no_method_is_refused(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("club", "os.path:join", "toolbox.tools")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [theirs])
    with pytest.raises(UnlearnError, match="os.path:join must define exactly one Tool"):
        family.get("club")


def test_a_name_that_exists_twice_is_refused(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("hammer", "elsewhere:Hammer", "toolbox.tools")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [theirs])
    with pytest.raises(UnlearnError, match="Two tools are called 'hammer': toolbox.hammer and elsewhere:Hammer"):
        family.names()


def test_options_become_values_of_their_fields_types(family: Family) -> None:
    text = {"weight": "12", "swing": "1e-3", "loud": "Yes", "colour": "none", "grip": "right", "length": "7"}
    made = family.create("hammer", text)
    assert (made.weight, made.swing, made.loud, made.colour, made.grip, made.length) == (
        12, 0.001, True, "none", "right", 7,
    )  # fmt: skip
    assert type(made.weight) is int
    assert family.create("hammer", {"length": "None"}).length is None
    assert family.create("hammer", {}) == family.get("hammer")()


@pytest.mark.parametrize(
    ("option", "text", "allowed"),
    [
        ("weight", "2.5", "a whole number"),
        ("weight", "none", "a whole number"),
        ("swing", "fast", "a number"),
        ("loud", "maybe", "true or false"),
        ("grip", "up", "left or right"),
        ("length", "long", "a whole number or none"),
    ],
)
def test_a_value_that_does_not_fit_is_answered_with_what_does(
    family: Family, option: str, text: str, allowed: str
) -> None:
    with pytest.raises(UnlearnError, match=f"{option}='{text}' of 'hammer' is not valid; it takes {allowed}"):
        family.create("hammer", {option: text})


def test_everything_wrong_with_the_options_is_told_at_once(family: Family) -> None:
    with pytest.raises(UnlearnError) as error:
        family.create("hammer", {"wieght": "3", "swing": "x"})
    assert len(error.value.findings) == 2
    assert "did you mean 'weight'" in error.value.findings[0]
    assert "weight, swing, loud, colour, grip, length" in error.value.findings[0]


def test_a_method_is_described_with_needs_options_defaults_and_help(family: Family) -> None:
    text = family.describe("hammer")
    assert text.splitlines()[0] == "hammer: Hits."
    assert "needs   nail\n" in text
    assert "source  ours" in text
    assert "weight=3  (a whole number)\n      In kilograms." in text
    assert "loud=false  (true or false)" in text
    assert "length=none  (a whole number or none)" in text


def test_presets_and_ranges_of_a_search_are_shown() -> None:
    lines = unlearners().describe("scrub").splitlines()
    table = lines[lines.index("presets (what options left at none become, by the kind of request):") + 1 :]
    assert [line.split()[:2] for line in table] == [
        [kind, "learning_rate=0.05"] for kind in ("sample", "class", "subject")
    ]
    assert "tuned on" in table[0]
    assert table[2].endswith("not tuned")
    text = " ".join(" ".join(lines).split())
    assert "Searched from 0.2 to 5 times the usual value." in text
    assert "Searched from 0.02 to 0.5 (log)." in text
    assert "search=0 (a whole number)" in text
    assert unlearners().facts("scrub")["presets"]["class"]["options"] == {"learning_rate": 0.05}


def test_methods_without_presets_or_ranges_show_none() -> None:
    assert "presets" not in unlearners().describe("retrain")
    assert "search" not in unlearners().describe("retrain")
    assert not searchable(unlearners().get("retrain"))


def test_an_exact_method_says_so() -> None:
    assert "exact   yes" in unlearners().describe("retrain")
    assert "exact" not in unlearners().describe("finetune")


def test_the_example_of_the_docs_is_a_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    page = (Path(__file__).parents[2] / "docs" / "adding-a-method.md").read_text()
    (tmp_path / "their_package.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    theirs = EntryPoint("shrink", "their_package:Shrink", "unlearn_plugin.unlearners")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [theirs])
    model = world.model()
    facts = unlearners().create("shrink", {"factor": "0.5"}).unlearn(model, world.evidence(torch.arange(5)))
    assert facts == {"head": "8"}
    assert torch.equal(model[8].weight, world.trained[8].weight / 2)
    assert "factor=0.9  (a number)" in unlearners().describe("shrink")
    with pytest.raises(UnlearnError, match="factor=2.0 is out of range"):
        unlearners().create("shrink", {"factor": "2"})
