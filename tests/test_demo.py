"""giga demo: the six verbs on a drawn cohort."""

import pytest

from gigacli.config.tools import DemoConfig
from gigacli.demo.run import NOTICE, steps


@pytest.mark.parametrize("quick", [False, True])
def test_the_demo_is_the_six_verbs_in_order(cohort, quick):
    verbs = list(dict.fromkeys(step[0] for step in steps(cohort, DemoConfig(quick=quick))))
    assert verbs == ["tile", "pretrain-tiles", "bank", "train", "embed", "probe"]
    assert "smoke test" in NOTICE
    assert "not evidence" in NOTICE
