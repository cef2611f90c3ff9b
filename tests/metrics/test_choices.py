"""What counts as choosing an option, and what does not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlab.data.options import letter_of, plain_options, write_options
from tokenlab.metrics.choices import read_choice

ANIMALS = ("a cat", "a dog", "the bird", "none of them")


@pytest.mark.parametrize(
    "answer",
    [
        "B",
        "b",
        "(B)",
        "(b)",
        "B.",
        "B)",
        "B:",
        "[B]",
        "**B**",
        "**B.** a dog",
        "$\\boxed{B}$",
        '"B"',
        " B \n",
        "B. a dog",
        "B: a dog",
        "(B) a dog",
        "B) A dog",
        "B\n\nThe animal barks.",
        "B - a dog",
        "B because it barks",
        "B is correct",
        "B, because A is wrong",
        "Option B",
        "option (B).",
        "Answer: B",
        "answer is (B)",
        "The answer is B. Because A is wrong",
        "The answer is: **B**",
        "The correct answer is B, a dog.",
        "Best option: (B)",
        "My choice is B.",
        "I would go with B.",
        "I'd choose (B) a dog.",
        "It is B",
        "It's B.",
        "A is wrong. The answer is B.",
        "The answer is A? No, the answer is B.",
        "a dog",
        "A dog",
        "a dog.",
        "Dog",
        "the dog",
        "It is a dog.",
        "The answer is a dog.",
        "The correct option is B.",
    ],
)
def test_chooses_b(answer):
    assert read_choice(answer, ANIMALS) == "B"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        " ",
        ".",
        "?",
        "A man walks along the street",
        "A cat and a dog",
        "I do not know",
        "I",
        "Both A and B",
        "A or B",
        "A, B",
        "A/B",
        "A and B",
        "A. B. C. D.",
        "A. a cat B. a dog C. the bird D. none of them",
        "(A) a cat (B) a dog",
        "Neither",
        "E",
        "Z.",
        "The answer is E",
        "The answer is not B",
        "The answer is unclear",
        "Not B",
        "Vitamin B",
        "Because",
        "Bird dog cat",
        "The answer is a man",
        "The answer is A man",
        "Answer with the option's letter from the given choices directly.",
        "cat dog",
        "A cat or a dog?",
        "Both",
        "An animal",
    ],
)
def test_chooses_nothing(answer):
    assert read_choice(answer, ANIMALS) is None


def test_letters_that_are_words():
    assert read_choice("A", ANIMALS) == "A"
    assert read_choice("A. a cat", ANIMALS) == "A"
    assert read_choice("A is correct", ANIMALS) == "A"
    assert read_choice("A is wrong", ANIMALS) is None
    nine = [f"thing {number}" for number in range(9)]
    assert read_choice("I think so", nine) is None
    assert read_choice("I", nine) == read_choice("I.", nine) == "I"


def test_a_text_is_an_option_s_where_it_is_no_letter():
    assert read_choice("A", ("B", "A", "C")) == "A"  # the prompt asks for a letter
    assert read_choice("yes", ("no", "yes")) == "B"
    assert read_choice("3", ("2", "3", "4")) == "B"
    assert read_choice("the same", ("the same", "the same")) is None


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=26))
def test_any_text_is_one_of_the_letters_or_none(answer, options):
    assert read_choice(answer, options) in {None, *map(chr, range(65, 65 + len(options)))}


@given(st.integers(2, 26).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_every_letter_is_read(case):
    number, chosen = case
    options, letter = [f"thing {index}" for index in range(number)], chr(65 + chosen)
    for text in (
        "{}",
        "({})",
        "{}.",
        "The answer is {}.",
        "Answer: {}",
        "{}. thing " + str(chosen),
        "thing " + str(chosen),
    ):
        assert read_choice(text.format(letter), options) == letter


def test_options_are_written_as_lmms_eval_does():
    assert write_options("what is it ?", ANIMALS[:2]) == (
        "what is it ?\nA. a cat\nB. a dog\nAnswer with the option's letter from the given choices directly."
    )
    assert plain_options(["(A) x", "(B) y"]) == plain_options(["A: x", "B: y"]) == ("x", "y")
    assert plain_options(["A. x", "C. y"]) == ("A. x", "C. y")


@pytest.mark.parametrize("answer", ["B", "b", "B.", "(B)", "a dog", "B. a dog", "(B) a dog"])
def test_the_right_answer_is_a_letter_or_a_text(answer):
    assert letter_of(answer, ANIMALS) == "B"


@pytest.mark.parametrize(
    ("answer", "options", "line"),
    [
        ("a horse", ANIMALS, r"answer 'a horse' is none of the options: give a letter \(A to D\) or the option's text"),
        ("E", ANIMALS, "answer 'E' is none of the options"),
        ("A", ("B", "A"), "answer 'A' may be option A or B: give its letter and its text"),
        ("x", ("x", "x"), "answer 'x' may be option A or B"),
    ],
)
def test_a_right_answer_that_is_not_one_option(answer, options, line):
    with pytest.raises(ValueError, match=line):
        letter_of(answer, options)
