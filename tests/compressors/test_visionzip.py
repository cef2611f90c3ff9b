"""VisionZip restated with loops, where there is no [CLS]."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from tests.golden import assert_features
from tokenlab.compressors import REGISTRY
from tokenlab.testing.views import grid_view


def zipped_frame(values, scores, keys, dominant, contextual) -> torch.Tensor:
    """One frame, in loops."""
    best = sorted(range(len(scores)), key=lambda n: (-float(scores[n]), n))[:dominant]
    rest = [n for n in range(len(scores)) if n not in best]
    targets = rest[:: len(rest) // contextual][:contextual]
    assigned = {target: [] for target in targets}
    for n in rest:
        if n not in targets:
            assigned[max(targets, key=lambda target: float(cosine_similarity(keys[n], keys[target], dim=0)))].append(n)
    out = [values[n] for n in sorted(best)]
    for target, others in assigned.items():
        out.append(values[target] + values[others].mean(0) if others else values[target])
    return torch.stack(out)


@pytest.mark.parametrize(
    ("arguments", "dominant", "contextual"),
    [
        ({"retention_ratio": None, "dominant": 9, "contextual": 4}, 9, 4),
        ({"retention_ratio": 0.5}, 8, 2),
        ({"retention_ratio": 0.95}, 16, 3),
    ],
)
def test_zips_the_token_grid(arguments, dominant, contextual):
    method = REGISTRY["visionzip"](**arguments)
    view = grid_view(method)
    ours = view.tokens.reduce(method.reduce_grid(view).check()).values.reshape(6, -1, 8)
    scores, keys = view.evidence[method.attention].reshape(6, 20), view.evidence[method.keys].reshape(6, 20, -1)
    frames = view.tokens.as_frames()
    for t in range(6):
        assert_features(ours[t], zipped_frame(frames[t], scores[t], keys[t], dominant, contextual))
    assert method.positions == "renumber"
