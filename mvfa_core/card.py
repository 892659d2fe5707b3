"""The model card of a detector: what it is, what it was measured at, and what it must not be used for."""

from collections.abc import Mapping

from mvfa_core.reference import Reference

LIMITS = (
    "Research use only. Not a medical device; not for diagnosis, screening or any decision about a patient.",
    "A score says how far an image lies from a few known normal images and how it compares with sentences. It is not "
    "a probability.",
    "Other scanners, protocols, populations and preprocessing than those of the training images shift the scores; "
    "measure on your own labelled images first.",
    "The threshold was fixed on the few reference images named above; its error rates on other images may differ.",
    "Images are squeezed into a small square: findings of a few pixels can be lost.",
)


def model_card(about: Mapping, reference: Reference) -> str:
    """Markdown.

    Args:
        about: a detector's description, see `export.describe`.
        reference: scores of the images that its threshold was fixed on.
    """
    backbone, size = about["backbone"], about["image_size"]
    known = f"{len(reference.normal)} normal, {len(reference.abnormal)} abnormal"
    lines = [
        f"# Anomaly detector: {about['dataset']}, {about['method']}",
        "",
        f"**{LIMITS[0]}**",
        "",
        f"- prompts speak of: {about['organ']}",
        f"- backbone: {backbone['model']}, weights {backbone['weights']}, fingerprint {backbone['fingerprint']}",
        f"- input: {size} x {size} px, levels {about['levels']}",
        f"- reference images: {known} ({reference.source})",
        f"- threshold: {_threshold(about, reference)}",
        "",
        "## Figures on the test split",
        "",
        *(_figures(about["figures"]) or ["None: the run has not been evaluated."]),
        "",
    ]
    if about["protocol"] == "paper":
        lines += ["The epoch was selected on the test split, so these figures are optimistic.", ""]
    lines += ["## Limits", "", *(f"- {limit}" for limit in LIMITS), ""]
    return "\n".join(lines)


def _threshold(about: Mapping, reference: Reference) -> str:
    """The rule, and what it does on the reference images: what a user gives up for few false alarms, or gets."""
    rule, rate = about["rule"], about["false_alarm_rate"]
    threshold = reference.threshold(rule, rate)
    named = f"rule {rule}" + (f" at {rate:.3g}" if rule == "false-alarm" else "")
    if threshold is None:
        return f"none, there are no reference images for the {named}"
    alarms, hits = reference.flagged(threshold)
    return (
        f"{threshold:.4f} ({named}); of the reference images it flags {alarms} of {len(reference.normal)} normal "
        f"and {hits} of {len(reference.abnormal)} abnormal ones"
    )


def _figures(figures: Mapping[str, float]) -> list[str]:
    lines = []
    for key, name in (("image_auroc", "image AUROC"), ("pixel_auroc", "pixel AUROC")):
        if key in figures:
            low, high = figures.get(f"{key}_low"), figures.get(f"{key}_high")
            interval = "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
            lines.append(f"- {name}: {figures[key]:.3f}{interval}")
    if lines and figures.get("draws", 1) > 1:
        lines.append(f"- means over {figures['draws']:g} support draws, of which this detector is one")
    return lines
