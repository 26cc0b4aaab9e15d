"""The model card: the Hub can read it, the verdict comes first, and it never leads back to the earlier weights."""

from typing import Any

import pytest
from huggingface_hub import ModelCard

from tests.plugin.report.example import STATUSES, example_report
from unlearn_plugin.report.card import render_card
from unlearn_plugin.report.report import rounded
from unlearn_plugin.report.wording import headline


def card(report: dict[str, Any]) -> ModelCard:
    return ModelCard(render_card(report))


def test_the_hub_reads_the_library_the_task_and_the_results() -> None:
    data = card(example_report()).data
    assert data.library_name == "timm"
    assert data.pipeline_tag == "image-classification"
    assert "machine-unlearning" in data.tags
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results == {"accuracy": 0.936, "roc_auc": 0.514102}


@pytest.mark.parametrize("status", STATUSES)
def test_the_verdict_the_statement_and_the_caution_come_first(status: str) -> None:
    report = example_report(status)
    text = card(report).text
    assert text.index(headline(status).words) < text.index("## Measurements")
    assert text.index(report["overall"]["statement"]) < text.index("## Measurements")
    assert text.index(headline(status).caution) < text.index("## Measurements")
    for limit in report["overall"]["limits"]:
        assert limit in text


@pytest.mark.parametrize("status", STATUSES)
def test_no_card_names_the_earlier_weights_as_its_base(status: str) -> None:
    assert "base_model" not in render_card(example_report(status))


def test_refused_weights_have_neither_results_nor_a_way_to_load_them() -> None:
    refused = card(example_report("REFUSED"))
    assert refused.data.eval_results is None
    assert "create_model" not in refused.text
    assert "No weights were written." in refused.text


def test_the_table_holds_the_values_with_their_intervals() -> None:
    rows = [line for line in render_card(example_report()).splitlines() if line.startswith("|")]
    assert all(line.count("|") == 5 for line in rows)
    assert "0.782 (0.736 to 0.827) | 0.514 (0.468 to 0.560) | 0.506 (0.460 to 0.551)" in rows[2]
    assert "−0.5\N{NO-BREAK SPACE}points (−1.4 to +0.4\N{NO-BREAK SPACE}points)" in rows[4]


def test_what_was_not_measured_is_said_so() -> None:
    rows = [line for line in render_card(example_report(reference=False)).splitlines() if line.startswith("|")]
    assert rows[2].endswith("| not measured |")
    assert "nan" not in render_card(example_report("REFUSED", reference=False)).lower().replace("finance", "")


def test_the_card_tells_how_to_load_the_model_with_timm() -> None:
    text = render_card(example_report())
    assert 'timm.create_model("local-dir:' in text
    assert 'timm.create_model("hf-hub:' in text


@pytest.mark.parametrize(
    ("architecture", "library", "words"),
    [
        ("transformers:ViTForImageClassification", "transformers", 'Classification.from_pretrained("OWNER/NAME")'),
        ("torchvision.models:resnet18", None, "from torchvision.models import resnet18\n"),
        ("own.nets:Net.small", None, "from own.nets import Net\nfrom safetensors"),
    ],
)
def test_the_card_tells_how_the_library_the_model_came_from_loads_it(
    architecture: str, library: str | None, words: str
) -> None:
    report = example_report()
    report["model"]["architecture"] = architecture
    told = card(report)
    assert told.data.library_name == library
    assert "timm" not in told.data.tags
    assert words in told.text
    assert "create_model" not in told.text


def test_digests_say_what_ran_on_what() -> None:
    text = render_card(example_report())
    for digest in ("b1" * 32, "a2" * 32, "d3" * 32, "c0" * 32):
        assert f"`{digest}`" in text
    assert "d3" * 32 not in render_card(example_report(reference=False))


def test_words_of_others_cannot_become_markup() -> None:
    report = example_report()
    report["model"]["architecture"] = "net\n---\nbase_model: evil"
    report["overall"]["statement"] = "see [here](https://x.example) | <img src=x> `code`\n# heading"
    report["procedure"]["summary"] = "**bold**\n\n| a | b |"
    text = render_card(report)
    assert card(report).data.to_dict().keys() == card(example_report()).data.to_dict().keys()
    assert "# net --- base\\_model: evil after unlearning" in text
    assert "see \\[here\\](https://x.example) \\| \\<img src=x\\> \\`code\\` \\# heading" in text
    assert "\\*\\*bold\\*\\* \\| a \\| b \\|" in text


def test_reasons_are_given_once() -> None:
    report = example_report("RESIDUAL_DETECTED")
    (reason,) = report["overall"]["reasons"]
    assert f"\n* {reason}\n" in render_card(report)
    report["overall"]["statement"] += " " + reason
    assert render_card(report).count(reason) == 1


def test_the_card_is_the_same_before_and_after_the_report_was_written() -> None:
    assert render_card(rounded(example_report())) == render_card(example_report())
