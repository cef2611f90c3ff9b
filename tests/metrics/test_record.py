"""Records survive their file."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from tokenlab.metrics.record import Flops, Milliseconds, Record

counts = st.integers(0, 2**62)
times = st.floats(0, 1e9)
records = st.builds(
    Record,
    uid=st.text(),
    cluster=st.text(),
    arm=st.text(),
    arm_hash=st.text(),
    type=st.text(),
    question=st.text(),
    expected=st.none() | st.text(),
    status=st.sampled_from(["ok", "failed"]),
    error=st.none() | st.text(),
    answer=st.none() | st.text(),
    correct=st.none() | st.booleans(),
    visual_tokens_in=counts,
    visual_tokens_out=counts,
    tokens_after=st.lists(st.tuples(st.text(), counts)),
    flops=st.builds(Flops, counts, counts, counts, counts),
    milliseconds=st.builds(Milliseconds, times, times, times, times),
    peak_memory_bytes=st.none() | counts,
)


@given(records)
def test_record_is_one_line_and_comes_back(record):
    line = record.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == record


def test_records_are_light_to_import():
    heavy = "{'torch', 'torchmetrics', 'lightning', 'scipy'} & set(sys.modules)"
    script = f"import sys, tokenlab.metrics.record; print({heavy})"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
