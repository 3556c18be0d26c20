"""Would two arms train the same run under two names? A sweep that compares a run with itself is refused.

Equal settings are one case. The other is a setting that this run cannot feel: with one update a step the importance
ratio is 1 throughout, so the clips do nothing, and the clipped loss, CISPO and GSPO have the same gradient.
"""

from typing import Any

from saei.config import Config, content_hash, identity

ONE_UPDATE_CLIPS = ("clip_low", "clip_high", "dual_clip")
SAME_AT_RATIO_ONE = ("grpo", "cispo", "gspo")


def felt_settings(config: Config) -> str:
    """Hash of the settings that can change this run's numbers: equal hashes, equal runs."""
    tree: dict[str, Any] = identity(config)
    if config.optim.updates_per_step == 1:
        for name in ONE_UPDATE_CLIPS:
            del tree["loss"][name]
        del tree["policy_select"]["weights"]  # the old weights are the current ones
        if config.loss.name in SAME_AT_RATIO_ONE:
            tree["loss"]["name"] = SAME_AT_RATIO_ONE[0]
    return content_hash(tree)
