"""The contour of equal FLOPs of shapes that can be built, as the tool itself counts them."""

from collections.abc import Sequence

import numpy as np

from analysis.surface.contour import Contour
from mor_core.config.model import ModelConfig
from mor_core.flops import Convention, training_flops_per_token, unique_params


def contour_of_shapes(configs: Sequence[ModelConfig], convention: Convention) -> Contour:
    """Of the shapes of one arm, in a FLOP convention of `mor_core.flops`."""
    cost = {unique_params(config): training_flops_per_token(config, convention) for config in configs}
    params = sorted(cost)
    return Contour(
        log_params=np.log(np.array(params, dtype=np.float64)),
        log_value=np.log(np.array([float(cost[size]) for size in params])),
        source=f"the shapes' FLOPs, convention {convention}",
    )
