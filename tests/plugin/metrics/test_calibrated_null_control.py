"""The negative control of the calibrated test counts that test's alarms, and not those of the plain one."""

import numpy as np

from tests.plugin.metrics.test_calibration import made_trial
from unlearn_plugin.metrics.calibrated_null_control import CalibratedNullControl
from unlearn_plugin.metrics.null_control import NullControl


def test_on_sound_controls_false_alarms_are_rare() -> None:
    trial = made_trial(2.0, n=60)
    found = CalibratedNullControl().measure(trial.original, trial)
    assert found.details["runs"] == 200
    assert found.value < 0.08
    assert found.low < 0.05
    assert found.n == 600


def test_other_scores_give_other_alarms() -> None:
    trial = made_trial(n=60)
    calibrated, plain = (kind().measure(trial.original, trial) for kind in (CalibratedNullControl, NullControl))
    assert calibrated.details["request_size"] == plain.details["request_size"] == 60
    trial.references["controls"][:] = trial.references["controls"].flip(0)  # only the calibrated test looks at them
    again = [kind().measure(trial.original, trial) for kind in (CalibratedNullControl, NullControl)]
    assert again[1] == plain
    assert again[0].details != calibrated.details


def test_without_references_there_is_no_number() -> None:
    trial = made_trial()
    trial.references["controls"][:] = np.nan
    assert CalibratedNullControl().measure(trial.original, trial).value is None
