"""Where to call an image abnormal, decided before the test split is read."""

from collections.abc import Sequence

from mvfa_core.experiment import Experiment, TestSet
from mvfa_core.protocols import PROTOCOLS
from mvfa_core.reference import DEFAULT_RATE, Reference
from mvfa_core.runs import Run


def thresholds(
    experiment: Experiment, name: str, runs: Sequence[Run], rate: float = DEFAULT_RATE
) -> dict[str, float]:
    """For CLIP, untrained adapters and each run: the lowest threshold that flags few known normal images.

    Known are the normal images of the `valid` split, without those that a run was trained on; `sound` runs had
    their epoch chosen on them. Few-shot runs of a protocol that may not read these images, or whose scores
    depend on the test split, have no threshold here.

    Args:
        experiment: settings, backbone and data.
        name: the data set.
        runs: its trained runs.
        rate: share of the known normal images that may be called abnormal, in [0, 1).

    Returns:
        {method: threshold}, for scores at or above it; without methods that have no known normal image left.
    """
    records = [record for record in experiment.dataset(name).records("valid") if not record.label]
    if not records:
        return {}
    batch = experiment.load(name, records)
    known = TestSet(records, batch, experiment.tokens(batch.images), "")
    scores = {method: verdict.scores for method, verdict in experiment.verdicts(name, [], known).items()}
    for run in runs:
        if run.shots and PROTOCOLS[run.protocol].few_shot_selection != "held-out":
            continue
        seen = set((run.support or {}).get("normal", ()))
        unseen = [row for row, record in enumerate(records) if record.name not in seen]
        scores[run.method] = experiment.verdict(name, run, known).scores[unseen]
    found = {
        method: Reference(normal=values.numpy()).threshold("false-alarm", rate)
        for method, values in scores.items()
    }
    return {method: threshold for method, threshold in found.items() if threshold is not None}
