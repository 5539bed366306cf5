"""What is live, what it costs, and why a program is no optimizer."""

from __future__ import annotations

import pytest

from stepsmith.dsl import Program
from stepsmith.dsl.cost import Cost, cost
from stepsmith.dsl.flow import flow, reject_reason
from stepsmith.dsl.kinds import check
from stepsmith.dsl.ops import OPS
from stepsmith.dsl.program import LR, PROGRESS, G, T, W


def ops(program: Program) -> list[str]:
    return [node.op for node in flow(program).nodes]


def live_states(program: Program) -> list[str]:
    return [flow(program).labels[16 + index] for index, _ in flow(program).states]


def test_the_papers_cosh_is_dead(starts):
    """m = cosh(update) is overwritten by the next step before anyone reads it, so m is no state at all."""
    assert "cosh" in {s.op for s in starts["program4"].statements}
    assert "cosh" not in ops(starts["program4"])
    assert live_states(starts["program4"]) == ["v"]


@pytest.mark.parametrize(
    ("states", "body", "expected"),
    [
        ("m", "m = interp(g, m, 0.9); return lr * g, m", []),  # feeds only itself
        ("m", "return lr * (g + m), g", ["m"]),
        ("m", "m = g; return lr * m, m", []),  # read after it is overwritten
        ("m, v", "return lr * (g + m), v, g", ["m", "v"]),  # through another state
        ("m, v", "m = interp(g, m, 0.9); v = m * m; return lr * m, m, v", ["m"]),
        ("m, v", "return lr * g, v, m", []),  # a pair that feeds each other
        ("m", "return lr * (g + m), m", ["m"]),  # for ever zero, and read
        ("a, b, c", "return lr * (g + a), b, c, g", ["a", "b", "c"]),
    ],
)
def test_live_states_are_those_the_update_depends_on_now_or_later(states, body, expected):
    text = f"def f(w, g, {states}, lr):\n" + body.replace("; ", "\n")
    assert live_states(Program.parse(text)) == expected


def test_dead_and_repeated_statements_go():
    program = Program.parse("def f(w, g, lr):\n a = g * w\n b = sin(a)\n c = g * w\n d = a + c\n return lr * d")
    assert ops(program) == ["multiply", "add", "multiply"]


def test_numbers_keep_their_place_through_the_flow(starts):
    for program in starts.values():
        live = flow(program)
        values = {*range(5), *range(16, live.first_node + len(live.nodes))}
        for number, node in enumerate(live.nodes, live.first_node):
            assert all(a in values and a < number for a in node.args if isinstance(a, int))
            assert live.kind(number) is node.kind


def test_reads_names_the_inputs_of_live_code():
    program = Program.parse("def f(w, g, lr, t):\n a = w * t\n return lr * g")
    live = flow(program)
    assert [live.reads(value) for value in (W, G, LR, T, PROGRESS)] == [False, True, True, False, False]


def test_expanded_rows_leave_only_rows_with_a_meaning(random_programs):
    for program in random_programs[::40]:
        live = flow(program, expand=True)
        assert all(OPS[node.op].meaning is not None for node in live.nodes)
        assert [index for index, _ in live.states] == [index for index, _ in flow(program).states]


def test_random_programs_are_well_formed(random_programs):
    for program in random_programs[::20]:
        check(program)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("return lr * w", "never reads g"),
        ("a = g * lr\n return lr * w", "never reads g"),
        ("return g", "never reads lr"),
        ("a = g * lr\n return g", "never reads lr"),
        ("lr = 0.1\n return lr * g", "never reads lr"),
        ("return lr * g", None),
        ("return g + lr", None),
        ("return lr * (w - w) + dot(g, g)", None),
    ],
)
def test_a_program_whose_live_code_ignores_g_or_lr_is_rejected(body, reason):
    assert reject_reason(flow(Program.parse(f"def f(w, g, lr):\n {body}"))) == reason


def test_a_gradient_that_arrives_a_step_late_is_read():
    assert reject_reason(flow(Program.parse("def f(w, g, m, lr):\n return lr * m, g"))) is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sgd", Cost(state=0, operations=1.0, bytes=12, statements=1)),
        # two interps (6), sign, decay's multiply and add, the final multiply
        ("lion", Cost(state=1, operations=10.0, bytes=20, statements=6)),
        # square, two interps (6), root (2), division (2), decay (2), final multiply; lr * 0.001 costs one number
        ("adamw", Cost(state=2, operations=14.0, bytes=28, statements=9)),
        # clip, arcsin, the average, the square, v's average, the root, division, decay, final multiply
        ("program4", Cost(state=1, operations=27.0, bytes=20, statements=11)),
    ],
)
def test_costs_are_counted_on_live_code(starts, name, expected):
    assert cost(starts[name]) == expected


def test_states_that_are_single_numbers_cost_no_memory(starts):
    assert cost(starts["counted"]).state == 1
    assert cost(starts["counted"]).bytes == 20
