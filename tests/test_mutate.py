"""Mutation: valid by construction, one edit at a time, a function of the generator."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from stepsmith.discovered import load, names
from stepsmith.discovered.families import families
from stepsmith.dsl import OPS, SPACES, Const, Kind, Program, check
from stepsmith.dsl.keys import structural_key
from stepsmith.dsl.kinds import infer, start_kinds
from stepsmith.dsl.program import PROGRESS, T, W
from stepsmith.dsl.simplify import simplify
from stepsmith.dsl.uses import without_dead
from stepsmith.search.mutate import MAX_STATEMENTS, Mutator
from stepsmith.search.statements import shortened


def generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=list(key)))


def children(program: Program, mutator: Mutator, count: int) -> list[tuple[Program, str]]:
    return [mutator.mutate(program, generator(1, number)) for number in range(count)]


@pytest.mark.parametrize("space", SPACES)
def test_a_child_is_valid_and_differs(starts, space):
    for program in starts.values():
        for child, _ in children(program, Mutator(space), 300):
            check(child)
            assert child != program


def test_a_chain_of_edits_stays_within_its_size(starts):
    program, longest = starts["lion"], 0
    for number in range(3_000):
        program, _ = Mutator("elementwise").mutate(program, generator(2, number))
        longest = max(longest, len(program.statements))
    assert 10 < longest <= MAX_STATEMENTS


def test_the_generator_alone_decides(starts):
    for program in starts.values():
        first, second = (children(program, Mutator("elementwise"), 50) for _ in range(2))
        assert first == second
        assert len({child for child, _ in first}) > 30


def test_all_edits_happen_and_live_ones_most(starts):
    edits = Counter(edit for _, edit in children(starts["adamw"], Mutator(), 2_500))
    assert set(edits) == {"insert", "wire", "double", "split", "delete", "argument", "constant"}
    assert min(edits.values()) > 150
    assert edits["wire"] > 2 * max(edits["insert"], edits["delete"], edits["constant"])
    assert min(edits["double"], edits["argument"]) > 1.25 * max(edits["delete"], edits["constant"])
    assert min(edits["double"], edits["argument"]) > edits["insert"]


def test_an_edit_is_one_edit(starts):
    """The list grows by two, or what is split with it, or shrinks by one; the states and names of inputs stay."""
    grown = {
        "insert": {1}, "wire": {1, 2}, "double": {2}, "split": {1, 2, 3, 4}, "delete": {-1}, "argument": {0},
        "constant": {0},
    }  # fmt: skip
    for program in starts.values():
        for child, edit in children(program, Mutator("elementwise"), 300):
            assert len(child.statements) - len(program.statements) in grown[edit]
            assert child.states == program.states


def test_a_doubled_statement_is_beside_itself_with_one_argument_changed():
    """What read it reads both: a rule of two signs, or of two averages, is one edit from a rule of one."""
    program = load("signum")
    doubled = [c for c, edit in children(program, Mutator("elementwise"), 4_000) if edit == "double"]
    pairs = Counter()
    for child in doubled:
        places = range(len(program.statements))
        (place,) = [i for i in places if child.statements[i + 1].op == program.statements[i].op][:1]
        twin, own, join = child.statements[place : place + 3]
        assert twin.op == own.op and join.target == own.target and {own.target, twin.target} <= set(join.args)
        assert sum(a != b for a, b in zip(twin.args, own.args, strict=True)) == 1
        pairs[own.op] += 1
    assert set(pairs) == {"interp", "sign", "multiply"}
    rules = {str(replace(child, name="f", doc="")) for child in doubled}
    assert len(rules) > 200 and any("sign(g)" in rule and "sign(m)" in rule for rule in rules)


def test_a_statement_that_is_split_has_another_beside_it_for_one_of_its_readers():
    """What is kept and what is stepped by part ways: from Signum it is one edit to Lion."""
    program = load("signum")
    split = [c for c, edit in children(program, Mutator("elementwise"), 4_000) if edit == "split"]
    for child in split:
        twin, own = child.statements[:2]
        assert twin.op == own.op == "interp" and own == program.statements[0]
        assert sum(a != b for a, b in zip(twin.args, own.args, strict=True)) == 1
        signed, kept = child.statements[2].args[0], child.returns[1]
        assert {signed, kept} == {twin.target, own.target}
    found = Counter(family.name for child in split for family in families(child))
    assert found["lion"] > len(split) / 20


def test_what_leads_to_a_statement_may_be_split_with_it():
    """An average that two statements make parts as one that is an op of its own does: Lion is one edit away."""
    program = Program.parse("def f(w, g, m, lr=0.007, b=0.8):\n m = b * m + g\n return lr * sign(m), m")
    split = [c for c, edit in children(program, Mutator("elementwise"), 4_000) if edit == "split"]
    grown = Counter(len(child.statements) - len(program.statements) for child in split)
    assert set(grown) == {1, 2} and min(grown.values()) > len(split) / 3
    found = Counter(family.name for child in split for family in families(child))
    assert found["lion"] > len(split) / 8


def test_what_has_one_reader_is_not_split():
    program = Program.parse("def f(w, g, lr):\n x = g * 2.0\n y = sign(x)\n return lr * y")
    assert "split" not in {edit for _, edit in children(program, Mutator(), 300)}


def test_a_rate_is_moved_by_its_distance_to_one_as_often():
    """Half of a rate's neighbours are rates that remember longer or shorter by a factor, and not beyond 1."""
    program = Program.parse("def f(w, g, m, lr, b=0.99):\n m = interp(g, m, b)\n return lr * m, m")
    moved = [c.hypers[0] for c, _ in children(program, Mutator(constants_only=True), 2_000) if c.hypers[0] != 0.99]
    longer = [b for b in moved if 0.99 < b < 1]
    assert len(longer) > len(moved) / 8 and max(longer) > 0.998


def without_numbers(program: Program) -> tuple:
    statements = [(s.target, s.op, [None if isinstance(a, Const) else a for a in s.args]) for s in program.statements]
    return statements, program.returns, program.states, len(program.hypers)


@pytest.mark.parametrize("name", ["adamw", "adam", "program4", "sgd"])
def test_constants_only_changes_numbers_only(starts, name):
    program, mutator = starts[name], Mutator(constants_only=True)
    changed, before = set(), [value for _, value in program.constants()]
    for child, edit in children(program, mutator, 200):
        assert edit == "constant"
        assert without_numbers(child) == without_numbers(program)
        after = [value for _, value in child.constants()]
        (place,) = (i for i, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])
        changed.add(place)
    assert changed == set(range(len(before)))


def test_a_constant_can_change_its_sign_and_lr_cannot(starts):
    signs = Counter()
    for child, _ in children(starts["adam"], Mutator(constants_only=True), 500):
        for (name, old), (_, new) in zip(starts["adam"].constants(), child.constants(), strict=True):
            if old != new:
                signs["lr" if name == "lr" else "other", np.sign(old * new)] += 1
    assert signs["other", -1.0] > 20 and signs["other", 1.0] > 200
    assert signs["lr", -1.0] == 0 and signs["lr", 1.0] > 50


def test_a_constant_is_usually_within_a_factor_of_four():
    program = Program.parse("def f(w, g, lr, a=1.0, b=1.0, c=1.0):\n return lr * g * a * b * c")
    moved = []
    for child, _ in children(program, Mutator(constants_only=True), 1_000):
        moved += [np.log2(abs(v)) for name, v in child.constants() if v != 1.0 and name != "lr"]
    assert abs(float(np.median(moved))) < 0.3
    assert 0.8 < float(np.mean(np.abs(moved) < 2)) < 0.97  # N(0, 1) octaves


def test_numbers_stay_finite_for_ever():
    program = Program.parse("def f(w, g, lr=1e300, b=1e308, c=5e-324):\n return lr * g * 1e308 + b * w + c")
    for number in range(3_000):
        program, _ = Mutator(constants_only=True).mutate(program, generator(3, number))
        check(program)


@pytest.mark.parametrize("name", ["adamw", "lion", "adam"])
def test_lion45_stays_within_lion45(starts, name):
    """New statements call its functions alone and never read t or progress, whatever the parent does."""
    program = starts[name]
    inherited = {(s.op, a) for s in program.statements for a in s.args}
    for child, _ in children(program, Mutator("lion45"), 2_000):
        for statement in child.statements:
            assert statement.op in SPACES["lion45"].ops or any(statement.op == op for op, _ in inherited)
            if name != "adam":
                assert not {T, PROGRESS} & set(statement.args)


def test_elementwise_reads_t_and_progress_and_calls_every_row(starts):
    reads, calls = set(), set()
    for child, _ in children(starts["adamw"], Mutator("elementwise"), 5_000):
        calls |= {s.op for s in child.statements}
        reads |= {a for s in child.statements for a in s.args}
    assert {T, PROGRESS} <= reads
    assert calls == set(SPACES["elementwise"].ops)


def test_published_is_what_catalogued_rules_are_written_with():
    rules = [part for name in names() for part in load(name).parts()]
    used = {s.op for rule in rules for s in rule.statements}
    assert set(SPACES["published"].ops) == used & set(SPACES["elementwise"].ops)


def test_in_pointwise_no_element_sees_another(starts):
    calls = {s.op for child, _ in children(starts["lion"], Mutator("pointwise"), 5_000) for s in child.statements}
    assert calls == set(SPACES["pointwise"].ops) < set(SPACES["published"].ops)
    assert all(OPS[name].elementwise for name in calls)
    assert {"norm", "clip", "mean"} <= set(SPACES["published"].ops) - calls


def test_an_argument_gives_way_to_one_of_its_kind_first(starts):
    """The decay of AdamW, a number, becomes another number more often than a tensor, though these are twice as many."""
    adamw = starts["adamw"]
    (place,) = [i for i, s in enumerate(adamw.statements) if s.op == "multiply" and W in s.args]
    kinds = start_kinds(adamw) | dict(zip((s.target for s in adamw.statements), infer(adamw)[0], strict=True))
    mutator = Mutator("published")
    mutator.edits = {"argument": mutator.edits["argument"]}  # of which thousands are wanted
    made = [c.statements for c, _ in children(adamw, mutator, 40_000)]
    read = [statements[place].args for statements in made if statements[place] != adamw.statements[place]]
    news = [kinds[a] for args in read if W in args for a in args if isinstance(a, int) and a != W]
    assert 1.3 < news.count(Kind.GLOBAL) / news.count(Kind.TENSOR) < 6


def shape_of(program: Program, place: int) -> tuple[str, ...]:
    """A statement as its op and what stands at each place: a kind, or a number."""
    kinds = dict.fromkeys((0, 1), Kind.TENSOR) | {2: Kind.GLOBAL}
    kinds |= {16 + i: s.kind for i, s in enumerate(program.states)}
    for statement, kind in zip(program.statements[:place], infer(program)[0], strict=False):
        kinds[statement.target] = kind
    statement = program.statements[place]
    return statement.op, *("number" if isinstance(a, Const) else str(kinds[a]) for a in statement.args)


def test_every_kind_of_statement_in_lion_can_be_inserted_into_adamw(starts):
    wanted = {shape_of(starts["lion"], place) for place in range(len(starts["lion"].statements))}
    assert ("interp", "tensor", "tensor", "number") in wanted
    plain = Program.parse("def sgd(w, g, m, v, lr):\n u = g * g\n return u, m, v")  # with none of them to begin with
    found = set()
    for number in range(20_000):
        child, edit = Mutator("lion45").mutate(plain, generator(4, number))
        if edit == "insert":
            found |= {shape_of(child, place) for place in range(len(child.statements))}
    assert wanted <= found


def test_wire_puts_its_statement_on_the_way_to_a_reader(starts):
    """The new statement's value is read, so that the edit can be live at once."""
    for child, edit in children(starts["adamw"], Mutator(), 500):
        if edit == "wire":
            read = {a for s in child.statements for a in s.args} | set(child.returns)
            new = [s for s in child.statements if not child.name_of(s.target)]
            assert new and all(s.target in read for s in new)


def test_a_program_at_its_largest_still_has_children():
    lines = "".join(f" x{i} = g * {i + 1}.0\n" for i in range(MAX_STATEMENTS - 1))
    program = Program.parse(f"def f(w, g, lr):\n{lines} x = lr * x3\n return x")
    edits = Counter(edit for _, edit in children(program, Mutator(), 100))
    assert set(edits) == {"delete", "argument", "constant"}


def test_a_program_of_no_statements_still_has_children():
    program = Program.parse("def f(w, g, lr):\n return g")
    for child, _ in children(program, Mutator(), 200):
        check(child)
        assert child != program


def test_what_a_rule_leaves_to_another_stays_as_it_is():
    """Matrices are evolved, and the tuned rule of all else does not move with their learning rate."""
    muon = load("muon")
    for child, _ in children(muon, Mutator("matrix"), 400):
        assert child.fallback == muon.fallback and child.roles == muon.roles


def test_without_dead_code_a_program_does_the_same_in_fewer_statements_and_keeps_its_states(starts):
    shorter = 0
    for name, program in starts.items():
        for number in range(40):
            chain = program
            for edit in range(8):
                chain, _ = Mutator("published").mutate(chain, generator(5 + number, edit))
            live = without_dead(chain)
            check(live)
            assert live.states == chain.states and structural_key(live) == structural_key(chain), name
            assert without_dead(live) == live
            shorter += len(live.statements) < len(chain.statements)
    assert shorter > 40


def test_a_state_that_nothing_reads_stays_and_keeps_its_value():
    rule = "def f(w, g, m, lr=0.1):\n  x = g * g\n  m = interp(x, m, 0.9)\n  y = sign(m)\n  return lr * g, m"
    assert str(without_dead(Program.parse(rule))).split("\n")[1:] == ["    return lr * g, m", ""]


def test_with_few_digits_numbers_fold():
    one = "def f(w, g, lr):\n  a = 155.62909817494 * lr\n  return interp(a * g, a * (g + g), 0.10435216752916716)"
    long, short = Program.parse(one), shortened(Program.parse(one))
    assert [x for _, x in short.constants()][1:] == [155.6, 0.1044]
    assert len(simplify(short).statements) == 1 < len(simplify(long).statements)


@pytest.mark.parametrize(
    ("value", "short"),
    [(0.0, 0.0), (1.0, 1.0), (-1.0, -1.0), (0.99995123, 0.99995123), (0.999951234, 0.99995123), (-0.7182818, -0.7183),
     (6.358744e-09, 6.359e-09), (402.174966, 402.2), (1e300, 1e300), (5e-324, 5e-324), (float("inf"), float("inf"))],
)  # fmt: skip
def test_four_digits_of_a_number_and_of_its_distance_to_one_stay(value, short):
    program = Program.parse("def f(w, g, lr, beta=0.5):\n  return lr * g * beta")
    assert shortened(replace(program, hypers=(value,))).hypers == (short,)
