import pytest

from tokenlab.cli.config.messages import short_message

OPTIONS = ["--trainer.devices", "--trainer.logger", "--config"]
UNION = """Parser key "trainer.{key}":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'int'>, <class 'NoneType'>]
  Errors:
    - {first}
    - Expected a <class 'NoneType'>
  Given value type: <class 'str'>
  Given value: x"""


EXPECTED = "Expected a <class 'int'>"
NO_CLASS = "Import path a.B does not correspond to a subclass of Logger"
NO_OPTION = "Parser key \"a\": Problem with given class_path 'b.C':\n  - Option 'd' is not accepted"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("unrecognized arguments: --trainer.devces=2", "no option --trainer.devces; did you mean '--trainer.devices'?"),
        ("Unrecognized arguments: --zzz --more", "there is no option --zzz"),
        ("unrecognized arguments: x.yaml", "options begin with --, configs are given as --config FILE"),
        (f'Parser key "model.seed":\n  {EXPECTED}. Got value: 1.5', "model.seed: must be a whole number, got 1.5"),
        (UNION.format(key="max_epochs", first=EXPECTED), "trainer.max_epochs: must be a whole number or null, got x"),
        (UNION.format(key="logger", first="Expected a dot import path string: x"), ".Class or null, got x"),
        (UNION.format(key="logger", first=NO_CLASS), f"trainer.logger: {NO_CLASS}"),
        (NO_OPTION, "a: Problem with given class_path 'b.C': Option 'd' is not accepted"),
        ("Group 'trainer' does not accept option 'devces'", "Group 'trainer' does not accept option 'devces'"),
    ],
)
def test_one_line(message, line):
    assert short_message(message, OPTIONS).endswith(line)
    assert "\n" not in short_message(message, OPTIONS)
