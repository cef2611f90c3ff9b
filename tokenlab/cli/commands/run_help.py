"""The help of validate, test and predict: what matters for them, in groups, read off classes that are not imported."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import docstring_parser

import tokenlab
from tokenlab.errors import UserError

PACKAGE = Path(tokenlab.__file__).parent
WIDTH, NAMES = 100, 32

GROUPS = (
    ("Model", "model.mllm", "models/settings.py", "MLLM"),
    ("Arms", "model", "evaluation.py", "Evaluation"),
    ("Data (each dataset has more: --data.help NAME)", "data", "data/module.py", "QuestionData"),
    ("Run folder", "run", "report/run_folder.py", "RunFolder"),
)

TRAINER = {
    "accelerator": "auto, cpu or gpu",
    "limit_val_batches": "batches of clips that are asked, or their share; likewise limit_test_batches and so on",
    "logger": "false writes no TensorBoard and CSV logs",
    "enable_progress_bar": "false for none",
}
"""What of Lightning's Trainer matters for a run that trains nothing."""


@dataclass(frozen=True)
class Setting:
    """One setting: its default as Python spells it, and what is said of it."""

    name: str
    default: str
    about: str


def print_help(command: str) -> int:
    """Prints the settings of one of Lightning's commands that matter here."""
    print(f"usage: tokenlab {command} --config CONFIG [--config CONFIG ...] [--SETTING VALUE ...]\n")
    print(
        "CONFIG is a YAML file, or one that comes along: quickstart, methods. Settings on the command line come last."
    )
    for title, key, file, name in GROUPS:
        print(f"\n{title}")
        for each in settings_of(PACKAGE / file, name):
            if each.name != "mllm":
                print(_line(f"--{key}.{each.name}", each.about, each.default))
    print("\nTrainer (Lightning's; --help-all lists the rest)")
    for trainer, about in TRAINER.items():
        print(_line(f"--trainer.{trainer}", about, ""))
    print("\nMore")
    print(
        _line("--model.pipelines.ARM", "adds or replaces an arm: '[topic: {retention_ratio: 0.5}]', or topic@0.5", "")
    )
    print(_line("--model.pipelines.help NAME", "a compressor and its parameters", ""))
    print(_line("--data.help NAME", f"a dataset and its parameters: {', '.join(sorted(datasets()))}", ""))
    print(_line("--print_config", "shows the whole resolved config, and runs nothing", ""))
    print(_line("--help-all", "every setting, those of Lightning's Trainer too", ""))
    return 0


def print_dataset(name: str) -> int:
    """Prints the parameters of a dataset that comes along."""
    known = datasets()
    if name not in known:
        from tokenlab.schema.arguments import suggest

        there = ", ".join(sorted(known))
        raise UserError(f"--data.help: there is no dataset {name!r}{suggest(name, known)}; there are {there}")
    file, cls = known[name]
    tree = _class(file, cls)
    print(f"{name}: {docstring_parser.parse(ast.get_docstring(tree) or '').short_description}\n")
    for each in [*settings_of(file, cls), *settings_of(PACKAGE / "data" / "module.py", "QuestionData")]:
        print(_line(f"--data.{each.name}", each.about, each.default))
    print(f"\nIn a config\n  data: {{{name}: {{...}}}}")
    return 0


def datasets() -> dict[str, tuple[Path, str]]:
    """File and class of each dataset that comes along, by its registered name."""
    found = {}
    for file in (PACKAGE / "data" / "benchmarks").glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                names = [each.value for each in node.keywords if each.arg == "name"]
                found |= {name.value: (file, node.name) for name in names if isinstance(name, ast.Constant)}
    return found


def settings_of(file: Path, name: str) -> Iterator[Setting]:
    """What a class takes, in order, with what its docstring says: a dataclass's fields, or `__init__`'s arguments."""
    tree = _class(file, name)
    documented = docstring_parser.parse(ast.get_docstring(tree) or "").params
    said = {each.arg_name: each.description or "" for each in documented}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id in said:
            yield Setting(node.target.id, _spelled(node.value), said[node.target.id])
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = [*node.args.args[1:], *node.args.kwonlyargs]
            defaults = [*node.args.defaults, *node.args.kw_defaults]
            padded = [None] * (len(arguments) - len(defaults)) + defaults
            for argument, default in zip(arguments, padded, strict=True):
                if argument.arg in said:
                    yield Setting(argument.arg, _spelled(default), said[argument.arg])


def _class(file: Path, name: str) -> ast.ClassDef:
    nodes: Sequence[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    return next(node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)


def _spelled(default: ast.expr | None) -> str:
    """A default as a config spells it; nothing where there is none, or where it is made anew."""
    if default is None or isinstance(default, ast.Call | ast.Name):
        return ""
    text = ast.unparse(default).strip("'")
    return {"None": "null", "True": "true", "False": "false"}.get(text, text)


def _line(name: str, about: str, default: str) -> str:
    said = " ".join(about.split()) + (f" (default: {default})" if default else "")
    first, *rest = textwrap.wrap(said, WIDTH - NAMES - 2) or [""]
    lines = [f"  {name:<{NAMES}}{first}"] if len(name) < NAMES else [f"  {name}", " " * (NAMES + 2) + first]
    return "\n".join([*lines, *(" " * (NAMES + 2) + line for line in rest)])
