"""Where FastV cuts."""

import pytest

from tokenlab.compressors import REGISTRY


@pytest.mark.parametrize(("num_layers", "layer"), [(32, 2), (80, 5), (4, 1), (2, 1)])
def test_its_layer_scales_with_depth(num_layers, layer):
    assert REGISTRY["fastv"](retention_ratio=0.5).points(num_layers) == [(layer, "before_attention")]
