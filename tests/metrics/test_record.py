"""Records survive their file."""

import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from tokenlab.metrics.record import Flops, Milliseconds, Record

counts = st.integers(0, 2**62)
times = st.floats(0, 1e9)
fields = {
    **{name: st.text() for name in ("uid", "cluster", "arm", "arm_hash", "type", "question")},
    **{name: st.none() | st.text() for name in ("error", "answer", "choice")},
    **{name: st.lists(st.text()) for name in ("expected", "options")},
    "status": st.sampled_from(["ok", "failed"]),
    "correct": st.none() | st.booleans(),
    "visual_tokens_out": counts,
    "tokens_after": st.lists(st.tuples(st.text(), counts)),
    "flops": st.lists(counts, min_size=4, max_size=4),
    "by_layer": st.lists(counts),
    "milliseconds": st.none() | st.tuples(times, times),
    "steps": st.lists(times),
    "attention_kernels": st.lists(st.text()),
    "answer_alone": st.none() | st.text(),
    "peak_memory_bytes": st.none() | counts,
}


@given(st.fixed_dictionaries(fields))
def test_record_is_one_line_and_comes_back(fields):
    fields = dict(fields)
    by_layer, steps = tuple(fields.pop("by_layer")), tuple(fields.pop("steps"))
    flops = Flops(*fields.pop("flops"), by_layer=by_layer)
    times = fields.pop("milliseconds")
    record = Record(**fields, flops=flops, milliseconds=None if times is None else Milliseconds(*times, steps=steps))
    line = record.to_json()
    assert "\n" not in line
    assert Record.from_json(line) == record


def test_records_are_light_to_import():
    heavy = "{'torch', 'torchmetrics', 'lightning', 'scipy'} & set(sys.modules)"
    script = f"import sys, tokenlab.metrics.record; print({heavy})"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"
