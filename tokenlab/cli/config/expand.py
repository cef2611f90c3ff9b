"""From what a user wrote to the one full config that Lightning's command line reads.

Files and overrides are merged, short names become classes and sweeps become arms, and everything that can be checked
without loading weights is: a mistake is one line that names its key. `expand` of an expanded config changes nothing.

Paths of data (`file`, `root`) and of a local checkpoint are relative to the current directory, as they are when typed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenlab.cli.config.merge import merge, override
from tokenlab.errors import UserError
from tokenlab.schema.arguments import check_arguments, check_names
from tokenlab.schema.files import find_config, load_run_config, parse_yaml, resolve_parts

MODEL_KEYS = (
    "mllm",
    "pipelines",
    "seed",
    "controls",
    "match_flops",
    "timed_questions",
    "timed_batch_sizes",
    "scored_questions",
    "reuse_tokens",
)
"""What `model:` may hold, as `Evaluation` takes it, which is slow to import."""


def read(argv: Sequence[str]) -> tuple[list[str], list[dict[str, Any]], list[str]]:
    """Splits a command line into config names, configs in the order of their strength, and what jsonargparse reads."""
    names, overrides, rest = split(argv)
    configs = [load_run_config(find_config(name)) for name in names]
    for key, value in overrides:
        configs.append(resolve_parts(override(key, parse_yaml(value, f"--{key}")), Path()))
    return names, configs, rest


def split(argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]], list[str]]:
    """The values of `--config`, the overrides of `model` and `data`, and the other arguments."""
    names, overrides, rest = [], [], []
    arguments = iter(argv)
    for argument in arguments:
        option, equals, value = argument.partition("=")
        key = "config" if option == "-c" else option.removeprefix("--")
        if option == key or key.split(".")[0] not in ("config", "model", "data"):
            rest.append(argument)
            continue
        if not equals:
            value = next(arguments, None)
        if value is None or (not equals and value.startswith("--")):
            raise UserError(f"{option} needs a value")
        if key == "config":
            names.append(value)
        else:
            overrides.append((key, value))
    return names, overrides, rest


def expand(configs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The full config that several configs amount to.

    Raises:
        UserError: In one line, for anything that cannot be.
    """
    configs = list(configs)
    merged = merge(configs)
    model = merged.get("model")
    if not isinstance(model, dict):
        raise UserError(
            "model is missing: a config says which `mllm` and which `pipelines`; start from --config quickstart"
        )
    merged["model"] = _expand_model(model)

    import tokenlab.data  # noqa: F401 - registers the datasets; only now, as it is slow to import
    from tokenlab.cli.commands.datasets import expand_data
    from tokenlab.data.module import DATASETS, QuestionData

    values = [config["data"] for config in configs if "data" in config]
    merged["data"] = expand_data(values, DATASETS, QuestionData)
    return merged


def _expand_model(model: dict[str, Any]) -> dict[str, Any]:
    from tokenlab.compressors.spelling import expand_pipelines, with_controls
    from tokenlab.models.settings import MLLM

    check_names("model", model, MODEL_KEYS, "key")
    mllm = model.get("mllm", {})
    if not isinstance(mllm, dict):
        raise UserError(f"model.mllm: give its settings, such as {{checkpoint: shapes}}, or a YAML file, got {mllm!r}")
    mllm = check_arguments("model.mllm", MLLM, mllm)
    pipelines = expand_pipelines(model.get("pipelines"))
    if model.get("controls"):
        from tokenlab.models.checkpoint import load_config
        from tokenlab.models.families import family_of

        pipelines = with_controls(pipelines, family_of(load_config(MLLM(**mllm))).native_resolution)
    return {**model, "mllm": mllm, "pipelines": pipelines}
