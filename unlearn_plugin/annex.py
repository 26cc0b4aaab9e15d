"""Annex: what was found about single samples. It belongs to the private folder, and to nobody but its owner."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from unlearn_plugin.metrics.base import Trial
from unlearn_plugin.metrics.conformal import Q, conformal_p_values, discoveries

__all__ = ["make_annex", "write_annex"]

_FILE = "annex.json"
_SCHEMA = "urn:unlearn-plugin:annex:1"

_NOTE = (
    "Personal data: keep it with the request and not with the report. p: conformal p-value among unseen samples of "
    "the same class, null where there are too few. found: by the procedure of Benjamini and Hochberg. An unseen sample "
    "that is easy scores as high as a remembered one, so neither says that a sample was trained on."
)


def make_annex(trial: Trial, models: Mapping[str, nn.Module | None]) -> dict[str, Any]:
    """Test each requested sample by itself.

    Args:
        trial: What the judge looks at.
        models: The models by what they are called; ``None`` for one that is not there.

    Returns:
        JSON values: ``samples`` with the id, and ``p`` and ``found`` for each model.
    """
    samples: list[dict[str, Any]] = [{"id": name} for name in trial.forget.ids]
    for who, model in models.items():
        p_values = None if model is None else conformal_p_values(model, trial)
        if p_values is not None:
            for sample, p_value, found in zip(samples, p_values, discoveries(p_values), strict=True):
                sample[who] = {"p": None if math.isnan(p_value) else float(p_value), "found": bool(found)}
    return {"schema": _SCHEMA, "note": _NOTE, "q": Q, "samples": samples}


def write_annex(annex: Mapping[str, Any], folder: Path) -> None:
    """Write ``annex.json``, which only its owner may read.

    Args:
        annex: What `make_annex` gave.
        folder: The private folder.
    """
    path = folder / _FILE
    path.touch(mode=0o600)
    path.write_text(json.dumps(annex, indent=2, allow_nan=False) + "\n", encoding="utf-8")
