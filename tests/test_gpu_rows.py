"""What recorded passes know of their rows, against a loop in Python.

python -m pytest -m gpu; with TRITON_INTERPRET=1 and Triton without a GPU too.
"""

import os
import random

import pytest
import torch

if not torch.cuda.is_available() and not os.environ.get("TRITON_INTERPRET"):
    pytest.skip("needs a GPU or Triton's interpreter", allow_module_level=True)

from astuner.engine.decode_rows_kernel import describe_rows, note_chosen

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NUM_ROWS, NUM_BEHIND, PAGE_SIZE, SPARE_PAGE = 150, 10, 16, 99
"""Behind the rows of a pass are others of the same buffers, which it leaves as they are."""


def ints(*sizes: int) -> torch.Tensor:
    return torch.zeros(sizes, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("step", range(4))
def test_rows_go_on_with_what_was_chosen_for_as_many_passes_as_they_are_in(step: int) -> None:
    rng = random.Random(step)
    torch.manual_seed(step)
    size = NUM_ROWS + NUM_BEHIND
    inputs = ints(4, size)
    inputs[0] = -1
    for row in range(0, NUM_ROWS, 2):  # the others are used by nobody
        column = rng.choice([-1, rng.randrange(NUM_ROWS)])
        known = [column, rng.randrange(1000), rng.randrange(80), rng.randrange(5)]
        inputs[:, row] = torch.tensor(known, dtype=torch.int32)
    tables = torch.randint(0, 90, (size, 6), dtype=torch.int32, device=DEVICE)
    draws = torch.rand(4, size, device=DEVICE)
    chosen = torch.randint(0, 1000, (2, size), device=DEVICE).float()
    integers = torch.zeros(3, size, dtype=torch.int64, device=DEVICE)
    lengths, draw = ints(size), torch.zeros(size, device=DEVICE)
    describe_rows(
        inputs[:, :NUM_ROWS],
        draws[:, :NUM_ROWS],
        torch.tensor([step], dtype=torch.int32, device=DEVICE),
        chosen,
        tables[:NUM_ROWS],
        integers[:, :NUM_ROWS],
        lengths[:NUM_ROWS],
        draw[:NUM_ROWS],
        page_size=PAGE_SIZE,
        spare_page=SPARE_PAGE,
    )
    for row in range(NUM_ROWS):
        column, token, position, num_passes = inputs[:, row].tolist()
        slot = SPARE_PAGE * PAGE_SIZE
        if step and step >= num_passes:
            token, position = 0, 0
        else:
            position += step
            slot = int(tables[row, position // PAGE_SIZE]) * PAGE_SIZE + position % PAGE_SIZE
            if step or column >= 0:
                token = int(chosen[0, row if step else column])
        assert integers[:, row].tolist() == [token, position, slot]
        assert int(lengths[row]) == position + 1
    assert torch.equal(draw[:NUM_ROWS], draws[step, :NUM_ROWS])
    assert not integers[:, NUM_ROWS:].any() and not lengths[NUM_ROWS:].any()


@pytest.mark.parametrize("step", range(3))
def test_what_a_pass_chose_is_noted_as_the_last_and_as_that_of_its_number(step: int) -> None:
    size = NUM_ROWS + NUM_BEHIND
    found, chosen = torch.zeros(3, 2, size, device=DEVICE), torch.zeros(2, size, device=DEVICE)
    inputs = ints(4, size)
    inputs[3] = torch.arange(size) % 4
    goes_on = (inputs[3, :NUM_ROWS] > step) | (step == 0)
    ids = torch.randint(1, 50_000, (NUM_ROWS,), device=DEVICE)
    logprobs = -1 - torch.rand(NUM_ROWS, device=DEVICE)
    number = torch.tensor([step], dtype=torch.int32, device=DEVICE)
    note_chosen(ids, logprobs, inputs[:, :NUM_ROWS], number, chosen, found)
    assert torch.equal(found[step, 0, :NUM_ROWS], ids.float())
    assert torch.equal(found[step, 1, :NUM_ROWS], logprobs)
    assert torch.equal(chosen[:, :NUM_ROWS], found[step, :, :NUM_ROWS] * goes_on)
    assert not chosen[:, NUM_ROWS:].any() and not found[step, :, NUM_ROWS:].any()
    others = [one for one in range(3) if one != step]
    assert not found[others].any()
