"""Whatever the processor: what is chosen keeps the law, and is never slower beyond noise."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import dynamax_lm
from dynamax_lm.decoders.cpu import chosen_products as chosen
from dynamax_lm.decoders.cpu import product_choice
from dynamax_lm.decoders.cpu.chosen_products import Choices, LinearPlace, choose_products
from dynamax_lm.decoders.cpu.product_choice import PACKED, PLAIN, choose
from dynamax_lm.decoders.cpu.product_meter import Clock, NumberedProduct
from dynamax_lm.decoders.cpu.product_rule import (
    LAW,
    NOISE,
    TRUSTED,
    TURNED,
    UNPACKED,
    AtRows,
    Choice,
    decide,
    packed_name,
)
from dynamax_lm.decoders.cpu.products import Packed, can_pack

OUTPUTS = 256  # times 256 columns are worth the measurement


@pytest.fixture(autouse=True)
def measured_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(chosen, "_known", {})
    with torch.no_grad():
        yield


class Scripted:
    """A meter that says what it is told.

    Args:
        errors: of products by the start of their name, as multiples of the trusted one's; measured
            where a name is missing.
        times: seconds likewise; one second where a name is missing.
    """

    def __init__(
        self, errors: Mapping[str, float] | None = None, times: Mapping[str, float] | None = None
    ) -> None:
        self.errors, self.times = errors or {}, times or {}
        self.timed: list[tuple[str, int]] = []

    def error(self, name: str, product: NumberedProduct, weight: Tensor, rows: int) -> float:
        if not self.errors:
            return Clock().error(name, product, weight, rows)
        product(torch.randn(rows, weight.shape[1]), 0)  # it can be computed
        return next((e for start, e in self.errors.items() if name.startswith(start)), 1.0)

    def seconds(
        self, products: Mapping[str, NumberedProduct], weights: Sequence[Tensor], rows: int
    ) -> dict[str, list[float]]:
        self.timed += [(name, rows) for name in products]
        return {
            name: [next((t for start, t in self.times.items() if name.startswith(start)), 1.0)] * 3
            for name in products
        }


FASTER = {"oneDNN packed": 0.5, UNPACKED: 0.7}


def error(found: Tensor, exact: Tensor) -> float:
    """Root mean square, relative."""
    return float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@pytest.mark.parametrize("stays", [False, True])
@pytest.mark.parametrize("width", [512, 1024, 3584, 14336])
@pytest.mark.parametrize("batch", [1, 3, 8, 64])
def test_what_is_chosen_errs_at_most_twice_as_much(batch: int, width: int, stays: bool) -> None:
    """Errors as they are here, and times that would have oneDNN's products taken if allowed."""
    torch.manual_seed(batch)
    layers = nn.ModuleDict({"one": nn.Linear(width, 128, bias=False)})
    linear = layers["one"]
    meter = Scripted(times=FASTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            chosen, "choose", lambda weights, **options: choose(weights, **options, meter=meter)
        )
        products = choose_products([LinearPlace(layers, "one", stays=stays)], batch=batch)
    for rows in range(1, batch + 1):
        x = torch.randn(64, width)
        exact = x.double() @ linear.weight.double().t()
        each = [products.project(layers["one"], some) for some in x.split(rows)]
        usual = torch.cat([linear(some) for some in x.split(rows)])
        assert error(torch.cat(each), exact) <= LAW * error(usual, exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_real_choice_is_one_of_those_measured_and_keeps_the_law(dtype: torch.dtype) -> None:
    """The clock's own verdict, whichever it is here, follows from what it wrote down."""
    linear = nn.Linear(320, OUTPUTS, bias=False).to(dtype)
    choice = choose([linear.weight], batch=4)
    for one in choice.measured:
        name = choice.one_row if one.rows == 1 else choice.more_rows
        assert one.errors[name] <= LAW
        if one.seconds:
            assert not one.is_slower(name)
    assert decide(choice.measured, choice.width) == choice


def test_three_times_the_error_is_never_chosen() -> None:
    meter = Scripted({TRUSTED: 1.0, UNPACKED: 3.0, TURNED: 3.0}, FASTER)
    choice = choose([torch.randn(OUTPUTS, 2048)], batch=8, meter=meter)
    assert (choice.name, choice.width) == (TRUSTED, 0)
    assert not meter.timed, "nothing to time"


@pytest.mark.parametrize("stays", [False, True])
def test_the_widest_pieces_that_keep_the_law_are_timed(stays: bool) -> None:
    """As on a processor where 1,024 and 512 columns at once err too much."""
    errors = {packed_name(1024): 3.7, packed_name(512): 2.6, "oneDNN packed": 1.5}
    errors |= {UNPACKED: 3.7, TURNED: 3.7}
    meter = Scripted(errors, FASTER)
    choice = choose([torch.randn(OUTPUTS, 2048)], batch=8, stays=stays, meter=meter)
    possible = can_pack(torch.zeros(1)) and not stays
    assert choice.width == (256 if possible else 0)
    assert choice.name == (packed_name(256) if possible else TRUSTED)
    assert {name for name, _ in meter.timed} <= {TRUSTED, packed_name(256)}


def test_a_slower_product_is_never_chosen_nor_timed_to_the_end() -> None:
    meter = Scripted(times={UNPACKED: 1.2})
    choice = choose([torch.randn(OUTPUTS, 96)], batch=8, meter=meter)
    assert (choice.name, choice.width) == (TRUSTED, 0)
    assert all(rows == 1 for name, rows in meter.timed if name.startswith("oneDNN packed"))


@pytest.mark.parametrize("errs", [1.0, 3.0])
def test_what_is_asked_for_is_given_and_its_error_is_on_record(errs: float) -> None:
    weight = torch.randn(OUTPUTS, 300)
    meter = Scripted({"oneDNN packed": errs})
    packed = choose([weight], batch=2, asked=PACKED, meter=meter)
    if can_pack(weight):
        assert packed.width
        assert packed.why == "asked for"
        assert all(one.errors[packed.name] == errs for one in packed.measured)
    assert choose([weight], batch=2, asked=PLAIN, meter=meter) == Choice(why="asked for")
    assert not meter.timed


multiples = st.one_of(st.floats(0.1, 5.0), st.sampled_from([float("nan"), float("inf"), 0.0]))
times = st.lists(st.floats(1e-6, 1e-1), min_size=3, max_size=3)


@given(
    errors=st.lists(st.tuples(multiples, multiples), min_size=4, max_size=4),
    seconds=st.lists(st.tuples(times, times, times), min_size=4, max_size=4),
    timed=st.lists(st.booleans(), min_size=4, max_size=4),
    width=st.sampled_from([0, 256]),
)
def test_the_rule_keeps_the_law_and_the_speed_for_any_numbers(
    errors: list[tuple[float, float]],
    seconds: list[tuple[list[float], list[float], list[float]]],
    timed: list[bool],
    width: int,
) -> None:
    names = (TRUSTED, UNPACKED, packed_name(256))
    measured = [
        AtRows(
            rows,
            dict(zip(names, (1.0, *some), strict=True)),
            {name: tuple(each) for name, each in zip(names, taken, strict=True)} if clock else {},
        )
        for rows, some, taken, clock in zip((1, 2, 8, 64), errors, seconds, timed, strict=True)
    ]
    choice = decide(measured, width)
    assert choice.width in {0, width}
    assert bool(choice.width) == (choice.one_row == packed_name(256))
    for one in measured:
        name = choice.one_row if one.rows == 1 else choice.more_rows
        assert one.errors[name] <= LAW
        if one.seconds and name != TRUSTED:
            paired = zip(one.seconds[name], one.seconds[TRUSTED], strict=True)
            typical = statistics.median(a / b for a, b in paired)
            fastest = min(one.seconds[name]) / min(one.seconds[TRUSTED])
            assert min(typical, fastest) <= 1 + NOISE
    taken = [choice.one_row if one.rows == 1 else choice.more_rows for one in measured]
    if choice.name != TRUSTED:
        assert any(
            name != TRUSTED and one.seconds for name, one in zip(taken, measured, strict=True)
        )


@given(times, times)
def test_load_on_the_machine_moves_no_choice_alone(mine: list[float], trusted: list[float]) -> None:
    """A product that is no faster in the median round, or in the fastest ones, is not faster."""
    one = AtRows(1, {}, {TRUSTED: tuple(trusted), "x": tuple(mine)})
    slower = sum(a > b for a, b in zip(mine, trusted, strict=True)) >= 2
    if slower or min(mine) > min(trusted):
        assert one.slowness("x") > 1


def test_one_fast_round_of_the_trusted_product_excludes_no_other() -> None:
    """A weight that was still in the cache, at one of the row counts."""
    name = packed_name(256)
    typical = {TRUSTED: (1.0, 1.0, 1.0, 1.0, 1.0), name: (0.5,) * 5}
    cached = {TRUSTED: (1.0, 1.0, 0.6, 1.0, 1.0), name: (1.0,) * 5}
    slower = {TRUSTED: (1.0,) * 5, name: (1.1,) * 5}
    kept = {TRUSTED: 1.0, name: 1.0}
    for at_one_row, chosen_name in ((cached, name), (slower, TRUSTED)):
        measured = [AtRows(1, kept, at_one_row), AtRows(8, kept, typical)]
        assert decide(measured, 256).name == chosen_name


@pytest.mark.parametrize("count", [1, 2, 9])
def test_no_product_reads_what_another_has_read(count: int) -> None:
    """It would find it in the cache, and the one that never does would look slow beside it."""
    read: list[int] = []

    def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        read.append(weight.data_ptr())
        return rows @ weight.t()

    weights = [torch.full((4, 4), float(number)) for number in range(count)]
    names = ["a", "b", "c"]
    products = {name: product_choice._with_copies(product, weights) for name in names}
    for number in range(count):
        rows = torch.eye(4)
        assert torch.equal(products["a"](rows, number), weights[number].t())
    Clock().seconds(products, weights, 1)
    timed = read[-2 * len(names) * count :]
    assert {weight.data_ptr() for weight in weights}.isdisjoint(read)
    for place, at in enumerate(timed[len(names) * count :], len(names) * count):
        before = timed[place - len(names) * count + 1 : place]
        assert at not in before, "all others are read in between"


def test_parts_of_a_large_weight_are_measured_in_turn() -> None:
    """The only weight of its shape is not left in the cache either."""
    weight = torch.arange(6000.0)[:, None].expand(6000, 1024)
    parts = product_choice._some([weight])
    assert [part.shape for part in parts] == [(2048, 1024)] * 2
    assert [float(part[0, 0]) for part in parts] == [0.0, 2048.0]


def test_errors_are_relative_to_the_trusted_product_and_need_no_division() -> None:
    weight = torch.zeros(OUTPUTS, 256)
    choice = choose([weight], batch=1, meter=Scripted(times=FASTER))
    assert {error for one in choice.measured for error in one.errors.values()} == {1.0}


def test_a_model_measures_a_shape_once_and_shares_what_the_first_process_found() -> None:
    layers = nn.ModuleDict({name: nn.Linear(OUTPUTS, OUTPUTS) for name in ("a", "b", "c")})
    calls: list[int] = []
    choice = Choice(TRUSTED, TRUSTED, 0, "scripted")

    def scripted(weights: Sequence[Tensor], **options: object) -> Choice:
        calls.append(len(weights))
        return choice

    def other(choices: Choices) -> Choices:
        forced = Choice(packed_name(OUTPUTS), packed_name(OUTPUTS), OUTPUTS, "elsewhere")
        return dict.fromkeys(choices, forced)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "choose", scripted)
        slots = [LinearPlace(layers, name) for name in layers]
        first = choose_products(slots, batch=4)
        assert calls == ([3] if can_pack(torch.zeros(1)) else [])
        assert choose_products(slots, batch=4).describe() == first.describe()
        assert len(calls) <= 1
        assert all(type(layer) is nn.Linear for layer in layers.values())
        if calls:
            choose_products(slots, batch=4, share=other)
            assert all(type(layer) is Packed for layer in layers.values())


def test_nothing_touches_the_hosts_own_settings_of_blas() -> None:
    """They are the host's: a choice is measured under whatever they say; advice may name one."""
    package = Path(dynamax_lm.__file__).parent
    names = ("OPENBLAS_", "MKL_", "ONEDNN_", "DNNL_", "BLIS_", "KMP_", "OMP_")
    for file in package.rglob("*.py"):
        text = file.read_text(encoding="utf-8").replace("; set OMP_NUM_THREADS=1 to run", "")
        assert not any(name in text for name in names), file
