"""Card: the README.md of the cleaned model, with the verdict first and its numbers as the Hub's model index."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from unlearn_plugin.primary import primary
from unlearn_plugin.report.report import rounded
from unlearn_plugin.report.wording import estimate, headline, number, percent, points
from unlearn_plugin.user_code import is_function_name

__all__ = ["render_card"]

_MODELS = ("before", "after", "reference")


def render_card(report: Mapping[str, Any]) -> str:
    """Write the model card.

    The earlier weights are named by their digest only, never as ``base_model``: whoever follows that link finds the
    weights that were to be forgotten.

    Args:
        report: Content of report.json, before or after it was written; the card is the same.

    Returns:
        Markdown with a YAML front matter that the Hub reads.
    """
    report = rounded(report)
    overall, verdict = report["overall"], headline(report["overall"]["status"])
    reasons = [reason for reason in overall["reasons"] if reason not in overall["statement"]]
    parts = [
        f"---\n{_metadata(report).to_yaml()}\n---",
        f"# {_text(report['model']['architecture'])} after unlearning",
        f"**{verdict.words}.** {_text(overall['statement'])}",
        *([_listed(reasons)] if reasons else []),
        verdict.caution,
        "## Measurements",
        _table(report["measurements"], primary(report)),
        "Values with their 95 % interval; `report.html` shows them all, `report.json` holds them.",
        *_loading(report),
        "## Where it comes from",
        "\n".join(f"* {label}: {text}" for label, text in _provenance(report)),
        "## Limits",
        _listed(overall["limits"]),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(report: Mapping[str, Any]) -> ModelCardData:
    results = _results(report["measurements"], primary(report))
    library = _library(report["model"]["architecture"])
    return ModelCardData(
        library_name=library,
        pipeline_tag="image-classification",
        tags=["image-classification", *([library] if library else []), "machine-unlearning", "unlearn-plugin"],
        model_name=f"{report['model']['architecture']} after unlearning" if results else None,
        eval_results=results or None,
    )


def _results(measurements: Mapping[str, Any], test: str) -> list[EvalResult]:
    """What was measured on the new model; the data sets are named by their role, since they are the user's own."""
    wanted = (
        ("utility", "accuracy", "Accuracy on unseen images", "unseen", "Held-out images, never trained on"),
        (test, "roc_auc", "Membership AUC (0.5 is best)", "requested", "Requested images against unseen ones"),
    )
    found = []
    for metric, kind, name, dataset, dataset_name in wanted:
        after = measurements.get(metric, {}).get("after")
        if after and after["value"] is not None:
            found.append(
                EvalResult(
                    task_type="image-classification",
                    dataset_type=dataset,
                    dataset_name=dataset_name,
                    metric_type=kind,
                    metric_name=name,
                    metric_value=after["value"],
                )
            )
    return found


def _table(measurements: Mapping[str, Any], test: str) -> str:
    membership, utility, change = (measurements.get(name, {}) for name in (test, "utility", "change"))
    drop = {who: ((utility.get(who) or {}).get("details") or {}).get("drop") for who in _MODELS}
    rows = [
        ("Membership AUC (0.5: cannot be told from unseen)", [estimate(membership.get(who)) for who in _MODELS]),
        ("Accuracy on unseen images", [estimate(utility.get(who), percent) for who in _MODELS]),
        ("Its change against the original", ["", *(estimate(drop[who], points) for who in _MODELS[1:])]),
        (
            "Change of the weights against their size",
            ["", *(estimate(change.get(who), percent) for who in _MODELS[1:])],
        ),
    ]
    head = ["| | Before | After | Reference |", "| --- | --- | --- | --- |"]
    return "\n".join([*head, *(f"| {label} | {' | '.join(cells)} |" for label, cells in rows)])


def _loading(report: Mapping[str, Any]) -> list[str]:
    if not (report["model"]["after"] or {}).get("digest"):
        return ["No weights were written."]
    module, _, name = report["model"]["architecture"].partition(":")
    ways = {
        "timm": (
            "import timm\n\n"
            'model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True)\n'
            'model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True)  # once it is on the Hub\n'
        ),
        "transformers": (
            "from transformers import AutoModelForImageClassification\n\n"
            'model = AutoModelForImageClassification.from_pretrained("PATH_OF_THIS_FOLDER")\n'
            'model = AutoModelForImageClassification.from_pretrained("OWNER/NAME")  # once it is on the Hub\n'
        ),
        None: (
            f"from {module} import {name.partition('.')[0]}\n"
            "from safetensors.torch import load_file\n\n"
            f"model = {name}(...)  # with the arguments it was trained with\n"
            'model.load_state_dict(load_file("PATH_OF_THIS_FOLDER/model.safetensors"))\n'
        ),
    }
    return ["## Use", f"```python\n{ways[_library(report['model']['architecture'])]}```"]


def _library(architecture: str) -> str | None:
    """The library whose form the model has; ``None`` for a class of the user's own."""
    if not is_function_name(architecture):
        return "timm"
    return "transformers" if architecture.startswith("transformers:") else None


def _provenance(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    request, model, procedure = report["request"], report["model"], report["procedure"]
    return [
        ("Report", f"`{report['report_id']}`, {report['created_utc']}"),
        ("Request", f"{number(request['n_samples'])} images; commitment `{request['commitment']['digest']}`"),
        ("Method", f"{_text(procedure['method'])}: {_text(procedure['summary'])}"),
        ("Software", _text(", ".join(f"{name} {text}" for name, text in sorted(procedure["environment"].items())))),
        *(
            (f"Weights {who}", f"SHA-256 of the tensors `{model[who]['digest']}`")
            for who in _MODELS
            if (model[who] or {}).get("digest")
        ),
        ("Erasure of copies", report["overall"]["erasure"].lower()),
    ]


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"* {_text(sentence)}" for sentence in sentences)


def _text(text: str) -> str:
    """Text that Markdown shows as it is: on one line, without markup of its own."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(text.split()))
