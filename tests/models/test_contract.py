"""The contract with transformers holds on every family, and says which name is gone where it does not."""

import pytest

from tests.models.harness import settings
from tokenlab.models.families import FAMILIES
from tokenlab.models.hf import CACHE
from tokenlab.models.mllm import LoadedModel
from tokenlab.testing.contract import missing_names


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request, checkpoints) -> LoadedModel:
    return LoadedModel.load(settings(checkpoints[request.param]))


def test_every_name_is_there(loaded):
    assert missing_names(loaded.family, loaded.model) == []


@pytest.mark.parametrize("name", ["input_layernorm", "self_attn", "post_attention_layernorm", "mlp"])
def test_a_renamed_part_of_a_layer_is_named(loaded, name):
    layer = loaded.decoder.layers[0]
    renamed = layer._modules.pop(name)
    try:
        gone = missing_names(loaded.family, loaded.model)
    finally:
        layer._modules[name] = renamed
    assert f"layer: {name}" in gone


def test_a_renamed_argument_is_named(loaded, monkeypatch):
    """As in transformers 5.24, which called the cache otherwise."""
    kind = type(loaded.decoder.layers[0])

    def forward(self, hidden_states, attention_mask, position_ids, position_embeddings, kv):
        raise NotImplementedError

    monkeypatch.setattr(kind, "forward", forward)
    assert [name for name in missing_names(loaded.family, loaded.model) if name.startswith("layer.forward")] == [
        f"layer.forward: {CACHE}"
    ]


def test_a_moved_tower_is_named(loaded):
    part, _, leaf = loaded.family.tower.rpartition(".")
    owner = loaded.model.get_submodule(part)
    moved = owner._modules.pop(leaf)
    try:
        gone = missing_names(loaded.family, loaded.model)
    finally:
        owner._modules[leaf] = moved
    assert f"{loaded.family.name}: tower = {loaded.family.tower}" in gone
