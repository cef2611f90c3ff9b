import pytest

from tokenlab.errors import UserError
from tokenlab.schema import files


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("model: {pipelines: {a: [], a: []}}", 1, "'a' is written twice"),
        ("model:\n  pipelines:\n    a: []\n    b: []\n    a: []\n", 5, "'a' is written twice"),
        ("model: [\n", 2, "parsing a flow node|expected"),
        ("model:\n\tx: 1\n", 2, "cannot start any token"),
        ("a: !!python/object:os.system {}", 1, "could not determine a constructor"),
    ],
)
def test_malformed_yaml_names_file_and_line(tmp_path, text, line, says):
    write(tmp_path, c=text)
    with pytest.raises(UserError, match=says) as error:
        files.load_run_config(tmp_path / "c.yaml")
    assert f"c.yaml, line {line}: " in str(error.value)


def test_other_files_that_are_no_config(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4")
    write(tmp_path, empty="", list="[1]", typo="modle: {}")
    for name, says in {
        "missing.yaml": "there is no file",
        "latin.yaml": "cannot be read",
        ".": "cannot be read",
        "empty.yaml": "a config is a mapping",
        "list.yaml": "a config is a mapping",
        "typo.yaml": r"typo.yaml: there is no key 'modle'; did you mean 'model'\?",
    }.items():
        with pytest.raises(UserError, match=says):
            files.load_run_config(tmp_path / name)


def test_numbers_are_read_as_people_write_them():
    assert files.parse_yaml("[1e-1, 5e-1, .5, 0.25, 1, abc, 2e]", "here") == [0.1, 0.5, 0.5, 0.25, 1, "abc", "2e"]


def test_yaml_merge_keys_are_not_twice():
    assert files.parse_yaml("{a: &x {r: 1}, b: {<<: *x, r: 2}}", "here")["b"] == {"r": 2}


def test_parts_are_relative_to_the_file_that_names_them(tmp_path):
    write(
        tmp_path,
        c="model: {mllm: models/m.yaml, pipelines: pipelines/p.yaml}\ndata: data/d.yaml",
        models__m="checkpoint: here",
        pipelines__p="full: []\njoint: joint.yaml",
        pipelines__joint="[one, two]",
        data__d="shapes: {num_videos: 1}",
    )
    assert files.load_run_config(tmp_path / "c.yaml") == {
        "model": {"mllm": {"checkpoint": "here"}, "pipelines": {"full": [], "joint": ["one", "two"]}},
        "data": {"shapes": {"num_videos": 1}},
    }


def test_a_missing_part_is_named(tmp_path):
    write(tmp_path, c="data: nowhere.yaml")
    with pytest.raises(UserError, match=r"there is no file .*nowhere\.yaml"):
        files.load_run_config(tmp_path / "c.yaml")


def test_a_file_here_wins_over_a_config_that_comes_along(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert files.find_config("quickstart").parent in files.SHIPPED
    assert files.find_config("quickstart.yaml").parent in files.SHIPPED
    write(tmp_path, quickstart="{}")
    assert files.find_config("quickstart.yaml").resolve() == tmp_path / "quickstart.yaml"
    with pytest.raises(UserError, match=r"no config of that name comes along.*did you mean 'quickstart'"):
        files.find_config("quikstart")
