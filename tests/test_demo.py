"""giga demo: the six verbs on a drawn cohort."""

from gigacli.demo.run import NOTICE, steps


def test_the_demo_is_the_six_verbs_in_order(cohort):
    verbs = list(dict.fromkeys(step[0] for step in steps(cohort)))
    assert verbs == ["tile", "pretrain-tiles", "bank", "train", "embed", "probe"]
    assert "smoke test" in NOTICE
    assert "not evidence" in NOTICE
