"""Estimators of the meta-gradient by name, by how they differentiate the adaptation and the sampling of its data."""

from __future__ import annotations

from typing import NamedTuple

from jaxmeta import rl


class MetaGradient(NamedTuple):
    """An estimator of the meta-gradient from trials; for any outer objective with the correct first derivative."""

    objective: rl.Objective
    """The inner loss. All objectives give the same inner step, but different derivatives of the step."""
    first_order: bool = False
    """Whether the inner gradient is treated as a constant."""
    sampling_correction: float = 0.0
    """See `trial_loss`."""


META_GRADIENTS = {
    "first-order": MetaGradient(rl.log_prob, first_order=True),
    "log-prob": MetaGradient(rl.log_prob),
    "ratio": MetaGradient(rl.ratio),
    "dice": MetaGradient(rl.dice),
    "loaded-dice": MetaGradient(rl.loaded_dice(0.5)),
    "e-maml": MetaGradient(rl.log_prob, sampling_correction=1.0),
}
"""FOMAML and MAML (Finn et al., 2017, arXiv:1703.03400), the low-variance curvature of ProMP (Rothfuss et al., 2019,
arXiv:1810.06784), DiCE (Foerster et al., 2018, arXiv:1802.05098) and its loaded form with λ = 0.5 (Farquhar et al.,
2019, arXiv:1909.10549), and E-MAML (Stadie et al., 2018, arXiv:1803.01118), the only unbiased one."""
