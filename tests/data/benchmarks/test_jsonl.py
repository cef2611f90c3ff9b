import json
import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.data import MediaFile
from tokenlab.data.benchmarks.jsonl import Jsonl, check_row, parse
from tokenlab.errors import UserError


@pytest.fixture
def write(tmp_path):
    def write(*rows):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / "q.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / "q.jsonl")

    return write


def _row(video="a.mp4", question="what ?", **more):
    return {"video": video, "question": question, **more}


def _entries(file, **settings):
    return Jsonl(file, **settings).entries("validation")


def test_rows_of_one_video_become_one_clip(write, tmp_path):
    file = write(
        _row("b.mp4", "first ?", answer="yes", type="order"),
        _row("in/a.mp4", "second ?", uid="mine", cluster="film"),
        _row("./b.mp4", "third ?", answer=None),
    )
    first, second = _entries(file)
    folder = tmp_path.resolve()
    assert (first.media, second.media) == ((MediaFile(folder / "b.mp4"),), (MediaFile(folder / "in" / "a.mp4"),))
    assert (first.cluster, second.cluster) == ("b.mp4", "film")
    assert [sample.uid for sample in first.samples + second.samples] == ["b.mp4#0", "./b.mp4#1", "mine"]
    assert [sample.question for sample in first.samples] == ["first ?", "third ?"]
    assert [sample.answers for sample in first.samples] == [("yes",), ()]
    assert [sample.type for sample in first.samples] == ["order", ""]
    assert {sample.cluster for sample in first.samples} == {"b.mp4"}


def test_every_split_asks_the_same(write):
    data = Jsonl(write(_row(), _row()))
    assert data.entries("validation") == data.entries("test") == data.entries("predict")


def test_root(write, tmp_path):
    (tmp_path / "videos").mkdir()
    (entry,) = _entries(write(_row()), root=str(tmp_path / "videos"))
    assert entry.media[0].path == tmp_path.resolve() / "videos" / "a.mp4"
    with pytest.raises(UserError, match=r"data\.root is '.*nowhere', which is not a folder"):
        _entries(write(_row()), root=str(tmp_path / "nowhere"))


def test_missing_video_and_empty_question_are_left_to_the_run(write, write_video, tmp_path):
    write_video(tmp_path / "a.mp4", 3)
    data = Jsonl(write(_row(question=""), _row("gone.mp4")), num_workers=0, batch_size=2)
    (batch,) = data.val_dataloader()
    assert batch[0].media[0].numbers == (0, 1, 2)
    assert batch[0].samples[0].question == ""
    assert batch[1].media is None
    assert batch[1].error.endswith("gone.mp4' does not exist")


def test_blank_lines_byte_order_mark_and_line_separators(tmp_path):
    text = "\ufeff" + json.dumps(_row()) + "\r\n\n  \n" + json.dumps(_row(question="a\u2028b"), ensure_ascii=False)
    (tmp_path / "q.jsonl").write_bytes(text.encode())
    (entry,) = _entries(str(tmp_path / "q.jsonl"))
    assert [sample.question for sample in entry.samples] == ["what ?", "a\u2028b"]


BAD_ROWS = [
    ('{"video": "a.mp4", ', r"not JSON: .* at column \d+"),
    ('["a.mp4", "what ?"]', "needs an object such as"),
    ({"video": "a.mp4"}, "'question' is missing"),
    ({"video": None, "question": "what ?"}, "'video' is missing"),
    ({"video": "a.mp4", "quesiton": "what ?"}, "unknown key 'quesiton': did you mean 'question'?"),
    (
        _row(zzz=1),
        "unknown key 'zzz': choose from video, image, question, content, options, answer, uid, type, cluster",
    ),
    (_row(answer=True), "'answer' must be text or a number, not true"),
    (_row(answer={}), "'answer' must be text or a number, not {}"),
    (_row(answer=float("nan")), "'answer' must be text or a number, not NaN"),
    (_row(answer=[]), "'answer' must be a list of texts, not []"),
    (_row(answer=["yes", None]), "'answer' must be a list of texts"),
    (_row(question=4), "'question' must be text in quotes, not 4"),
    (_row(video=["a.mp4"]), "'video' must be text in quotes"),
    (_row(options="A"), "'options' must be a list of texts"),
    (_row(options=3), "'options' must be a list of texts, not 3"),
    (_row(options=["one"]), "'options' are 1, but must be from 2 to 26"),
    (_row(options=["a", "b"], answer="c"), "answer 'c' is none of the options: give a letter (A to B)"),
    (_row(options=["B", "A"], answer="A"), "answer 'A' may be option A or B: give its letter and its text"),
    ('{"video": "a.mp4", "question": "?", "question": "!"}', "'question' is written twice in one object"),
    ('{"content": [{"text": "a", "text": "b"}]}', "'text' is written twice in one object"),
    ({"content": [{"type": "image", "url": "http://x/a.png"}]}, "part 1 of 'content' has a 'url': media are files"),
    ({"content": [{"type": "sound", "sound": "a.wav"}]}, "part 1 of 'content' must be one of"),
    ({"content": [{"type": "text"}]}, "part 1 of 'content' must be one of"),
    (_row("../a.mp4"), "video '../a.mp4' is not a file inside"),
    (_row("/a.mp4"), "video '/a.mp4' is not a file inside"),
    (_row(""), "video '' is not a file inside"),
    ({"question": "what ?"}, "'video' is missing"),
    (_row(image="a.png"), "'video' stands beside 'image': list several media in 'content'"),
    ({"image": "../a.png", "question": "?"}, "image '../a.png' is not a file inside"),
    ({"content": [{"text": "what ?"}], "question": "what ?"}, "leave out 'question'"),
    ({"content": []}, "'content' must be a list such as"),
    ({"content": [{"text": "what ?"}, {"sound": "a.mp3"}]}, "part 2 of 'content' must be one of video, image, text"),
    ({"content": [{"image": "a.png", "text": "what ?"}]}, "part 1 of 'content' must be one of"),
    ({"content": [{"text": 3}]}, "part 1 of 'content' must be one of"),
    (_row("ok.mp4", cluster="two"), "cluster 'two' is 'one' in an earlier question about 'ok.mp4'"),
]


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS)
def test_bad_row_is_one_line_with_its_place(write, row, problem):
    file = write(_row("ok.mp4", cluster="one"), "", row)
    problem = problem if problem.startswith("not JSON") else re.escape(problem)
    with pytest.raises(UserError, match=problem) as raised:
        _entries(file)
    assert str(raised.value).startswith(f"{file}:3: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "problem"),
    [(b"\n", "holds no question"), (b'{"video": "\xff"}', r":1: not UTF-8 \(byte 12"), (b"[" * 99999, "nested too")],
)
def test_bad_file(tmp_path, content, problem):
    (tmp_path / "q.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        _entries(str(tmp_path / "q.jsonl"))


def test_missing_file_and_duplicate_uid(write, tmp_path):
    with pytest.raises(UserError, match=r"data\.file is '.*none\.jsonl', which cannot be read \(No such file"):
        _entries(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="these come twice: 'x'"):
        _entries(write(_row(uid="x"), _row("b.mp4", uid="x")))


def test_the_same_key_twice():
    with pytest.raises(UserError, match=r"duplicate-keys\.jsonl:1: 'question' is written twice in one object$"):
        _entries(str(Path(__file__).parent / "duplicate-keys.jsonl"))


@given(st.binary(max_size=60) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_line_is_a_row_or_a_user_error(line):
    line = line.encode() if isinstance(line, str) else line
    with suppress(UserError):
        assert {"video", "question"} <= set(check_row(parse(line, "q.jsonl:1"), "q.jsonl:1"))


def test_content_says_what_is_shown_and_where(write, tmp_path):
    between = [{"text": "is"}, {"image": "a.png"}, {"text": "in"}, {"video": "b.mp4"}, {"text": "?"}]
    file = write(
        {"content": between, "answer": "yes"},
        {"image": "a.png", "question": "what is it ?"},
        {"content": [{"text": "who are you ?"}]},
        {"content": [{"text": "and who am I ?"}]},
        {"content": [{"image": "a.png"}, {"video": "b.mp4"}, {"text": "what else ?"}]},
    )
    both, image, nothing = _entries(file)
    assert [each.is_image for each in both.media] == [True, False]
    assert [sample.content for sample in both.samples] == [("is", 0, "in", 1, "?"), (0, 1, "what else ?")]
    assert [sample.question for sample in both.samples] == ["is in ?", "what else ?"]
    assert [sample.uid for sample in both.samples] == ["a.png + b.mp4#0", "a.png + b.mp4#1"]
    assert image.media == (MediaFile(tmp_path.resolve() / "a.png", is_image=True),)
    assert image.samples[0].content is None
    assert nothing.media == ()
    assert len({sample.cluster for sample in nothing.samples}) == len(nothing.samples) == 2


def test_images_are_read_upright_and_in_colour(write, tmp_path):
    from PIL import Image

    grey, tags = Image.new("L", (30, 20), 200), Image.Exif()
    tags[0x0112] = 6  # lies on its side
    grey.save(tmp_path / "a.jpg", exif=tags)
    (tmp_path / "b.png").write_bytes(b"no image")
    file = write(*({"image": name, "question": "what ?"} for name in ("a.jpg", "b.png", "c.png")))
    read, damaged, missing = (batch[0] for batch in Jsonl(file, num_workers=0).val_dataloader())
    (frames,) = read.media
    assert (frames.pixels.shape, frames.is_image, frames.numbers) == ((1, 30, 20, 3), True, (0,))
    assert damaged.media is missing.media is None
    assert "b.png' cannot be read: it is damaged, or none of PNG" in damaged.error
    assert missing.error.endswith("c.png' does not exist")


def test_numbers_are_answers_and_uids_as_they_are_written(write):
    file = write('{"video": "a.mp4", "question": "how many ?", "answer": 1.50, "uid": 12345678901234567890, "type": 3}')
    (entry,) = _entries(file)
    (sample,) = entry.samples
    assert (sample.answers, sample.uid, sample.type) == (("1.50",), "12345678901234567890", "3")
    assert all(type(text) is str for text in (sample.uid, sample.type, *sample.answers))


def test_uids_of_any_kind_come_once(write):
    with pytest.raises(UserError, match="these come twice: '3'"):
        _entries(write(_row(uid=3), _row("b.mp4", uid="3")))


def test_several_answers_are_right_and_an_empty_one_is_unknown(write):
    (entry,) = _entries(write(_row(answer=["red", "crimson", 3]), _row(answer=""), _row(answer=" ")))
    assert [sample.answers for sample in entry.samples] == [("red", "crimson", "3"), (), ()]


def test_options_end_the_prompt_and_answers_become_letters(write):
    between = [{"text": "is"}, {"image": "a.png"}, {"text": "a cat ?"}]
    file = write(
        _row(options=["a cat", "a dog"], answer="a dog"),
        _row(options=["A. a cat", "B. a dog"], answer="B"),
        _row(options=["a cat", "a dog"], answer=["A", "a dog"]),
        _row(options=[1, 2], answer=2),
        _row(options=["a cat", "a dog"]),
        {"content": between, "options": ["yes", "no"], "answer": "no"},
        {"content": between[:2], "options": ["yes", "no"]},
    )
    video, image = _entries(file)
    end = "Answer with the option's letter from the given choices directly."
    assert [sample.answers for sample in video.samples] == [("B",), ("B",), ("A", "B"), ("B",), ()]
    assert video.samples[0].question == video.samples[1].question == f"what ?\nA. a cat\nB. a dog\n{end}"
    assert video.samples[0].options == video.samples[1].options == ("a cat", "a dog")
    assert [sample.content for sample in image.samples] == [
        ("is", 0, f"a cat ?\nA. yes\nB. no\n{end}"),
        ("is", 0, f"A. yes\nB. no\n{end}"),
    ]
    assert image.samples[0].answers == ("B",)


def test_parts_written_as_in_chat_messages(write, tmp_path):
    plain = [{"image": "a.png"}, {"text": "what ?"}, {"video": "b.mp4"}]
    chat = [
        {"type": "image", "image": "a.png"},
        {"type": "text", "text": "what ?"},
        {"type": "video", "path": "b.mp4"},
    ]
    (entry,) = _entries(write({"content": plain}, {"content": chat}))
    one, other = entry.samples
    assert one.content == other.content == (0, "what ?", 1)
