"""The page of a validation says what was found, in plain words, whole and by itself."""

import math
import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from stepsmith.evaluator.statistics import Interval
from stepsmith.evaluator.validation.power_law import PowerLaw
from stepsmith.evaluator.validation.speedup import Comparison
from stepsmith.evaluator.validation.step_costs import StepCost
from stepsmith.evaluator.validation.training import Result
from stepsmith.evaluator.validation.validate import ADAMW, Contender, Frozen, Outcome, Validation
from stepsmith.report.validation_page import DamagedValidation, headline, read_validation, write_page
from stepsmith.report.validation_plots import plots
from stepsmith.report.validation_table import validation_rows

LAW = PowerLaw(40.0, 0.3, 1.5)
TOKENS, STEPS, START = 1e6, 400, 5.0
COMPARED, CURVE, SEEDS = (0.5, 1.0), (0.25, 0.5, 1.0), range(9100, 9108)


def result(loss: float, ratio: float, seed: int, reason: str = "") -> Result:
    """A run to a loss, without training; one that came to nothing stops after a quarter."""
    steps = [round(STEPS * ratio * (i + 1) / 20) for i in range(5 if reason else 20)]
    curve = [(s, c, c + 0.01) for s in steps for c in [loss + 3 * math.exp(-9 * s / steps[-1])]]
    noise = 0.004 * math.sin(seed * 7)
    if reason:
        return Result(START, START, START, None, reason, curve, 0.1, 0.01)
    return Result(loss + noise, START, loss + 0.02 + noise, 0.9, "", curve, 0.1, 0.01)


def contender(name: str, speedup: Interval, p: float, diverged: int = 0, gap: float | None = None) -> Contender:
    curve = CURVE if name == ADAMW else COMPARED
    speedup = Interval(*map(float, (speedup.mean, speedup.low, speedup.high)))
    gap = -0.05 * math.log(speedup.mean) if gap is None else gap
    results = {
        r: {s: result(LAW.loss(TOKENS * r) + gap, r, s, "NaN" if i < diverged else "") for i, s in enumerate(SEEDS)}
        for r in curve
    }
    outcome = Outcome(
        Comparison(speedup, Interval(gap, gap - 0.01, gap + 0.01), gap / 0.004), p, p <= 0.05, 2.0, 0.9, 0.95, diverged
    )
    text = f"def f(w, g, lr=0.1):\n    return lr * g  # {name}\n"
    frozen = {r: Frozen(text, 0.05, "linear", {"lr": 0.1 * r, "schedule.decay": "linear"}, 9) for r in curve}
    cost = StepCost(0.002 if name == ADAMW else 0.001, 0.0005, 8.0, 100_000)
    sensitivity = {f: result(loss, 0.5, 9000) for f, loss in {0.5: 2.3, 1.0: 2.2, 2.0: 2.25}.items()}
    sensitivity[4.0] = result(START, 0.5, 9000, "NaN")
    return Contender(name, text, frozen, results, sensitivity, cost, dict.fromkeys(COMPARED, outcome))


def validation(*rivals: Contender, **changed) -> Validation:
    sides = {c.name: c for c in (contender(ADAMW, Interval(1, 1, 1), 1.0), *rivals)}
    whole = Validation(
        "llama-60k", "", "quick", "0123456789ab", "feedfacefeedface", 61_000, {"torch": "2.13", "engine": "c"},
        "accuracy", START, LAW, sides, ["One target: others may rank otherwise."],
    )  # fmt: skip
    return replace(whole, **changed)


LION = contender("lion", Interval(1.12, 1.034, 1.21), 0.004)


_OUTCOME = LION.outcomes[0.5]
FLAT = replace(LION, outcomes=dict.fromkeys(
    COMPARED, replace(_OUTCOME, comparison=replace(_OUTCOME.comparison, flat=True, speedup=Interval(32.0, 32.0, 32.0)))
))  # fmt: skip


def written(found: Validation, folder) -> str:
    write_page(found, folder)
    return (folder / "report.html").read_text("utf-8")


def words(page: str) -> str:
    """What a reader reads, without drawings."""
    page = re.sub(r"<(svg|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())


def table_rows(page: str) -> list[list[str]]:
    """Of the first table, headings too."""
    table = page[page.index("<table>") : page.index("</table>")]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [[unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


# --- what it says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rival", "said"),
    [
        (LION, "tuned AdamW would need 1.12x the data to reach lion's loss (95% interval 1.034 to 1.21, 8 paired "
               "seeds, p = 0.004 after Holm)"),
        (contender("lion", Interval(1.02, 0.9, 1.15), 0.41),
         "lion is not distinguishable from tuned AdamW (speedup 1.020, 95% interval 0.90 to 1.15, 8 paired seeds, "
         "p = 0.41 after Holm)"),
        (contender("lion", Interval(0.8, 0.7, 0.88), 0.0002),
         "lion is worse than tuned AdamW, which reaches its loss with 0.80x the data (95% interval 0.70 to 0.88, "
         "8 paired seeds, p < 0.001 after Holm)"),
        (contender("lion", Interval(1 / 32, 1 / 32, 0.5), 0.01, diverged=2),
         "lion is worse than tuned AdamW, which reaches its loss with 1/32 of the data (95% interval 1/32 or less "
         "to 0.50, 8 paired seeds, p = 0.010 after Holm); 2 of 8 runs diverged"),
        (contender("lion", Interval(32, 3, 32), 0.01),
         "lion ends at a loss that tuned AdamW would not reach with 32x the data (95% interval 3.00 to 32 or more, "
         "8 paired seeds, p = 0.010 after Holm)"),
    ],
    ids=["better", "indistinguishable", "worse", "much worse, diverged", "much better"],
)  # fmt: skip
def test_headlines(rival, said, tmp_path):
    found = validation(rival)
    assert headline(found, "lion", 1.0) == said
    page = written(found, tmp_path)
    assert f"<h1>{said}</h1>" == unescape(re.search("<h1>.*</h1>", page)[0])


def test_a_gain_that_the_test_does_not_tell_is_no_gain():
    assert "is not distinguishable" in headline(
        validation(contender("lion", Interval(1.2, 1.05, 1.4), 0.06)), "lion", 1
    )


def test_other_data_ratios_are_in_the_text(tmp_path):
    other = replace(LION.outcomes[0.5], p=0.7, differs=False)
    page = written(validation(replace(LION, outcomes={0.5: other, 1.0: LION.outcomes[1.0]})), tmp_path)
    assert "lion: indistinguishable at 0.5x (1.12)" in words(page)


def test_every_contender_and_ratio_is_in_the_table(tmp_path):
    found = validation(LION, *(contender(f"rule{i}", Interval(1 + i / 10, 0.9, 2), 0.2) for i in range(9)))
    page = written(found, tmp_path)
    head, *rows = table_rows(page)
    assert head[:3] == ["contender", "data", "speedup"]
    assert "accuracy" in head
    assert rows == [list(row.values()) for row in validation_rows(found)]
    assert len(rows) == 11 * 2
    for name in found.contenders:
        assert headline(found, name, 1.0) in words(page) or name == ADAMW


def test_costs_are_beside_speedups(tmp_path):
    page = written(validation(LION), tmp_path)
    assert "lion 1 0.5 8 0.1 1.120 (1.034-1.210) 2.240 (2.068-2.420)" in words(page)
    assert "takes 0.50x the time of AdamW's, so that 1.12 in data is 2.24 in time; its state takes 8 b" in words(page)


def test_what_is_clipped_is_no_number_in_time_either(tmp_path):
    page = words(written(validation(contender("lion", Interval(32, 3, 32), 0.01)), tmp_path))
    assert ">32 (3.000->32) >64 (6.000->64)" in page
    assert "so that >32 in data is >64 in time" in page and "better at 0.5x (>32)" in page


def test_a_flat_law_says_no_speedup_anywhere(tmp_path):
    found = validation(FLAT, law=PowerLaw(0.0, 0.0, 2.0))
    assert "32" not in re.sub(r"0123456789ab|-32", "", words(written(found, tmp_path)).partition("Frozen settings")[0])
    assert [name for name, svg in plots(found).items() if not svg] == ["speedup", "time"]


def test_what_was_fixed_and_what_it_cannot_say(tmp_path):
    page = words(written(validation(LION), tmp_path))
    for said in ("Student's t, paired by seed", "Holm's correction for 1 contender at 2 data ratios;", "0.05",
                 "Seeds 9100 to 9107",
                 "One target: others may rank otherwise.", "feedfacefeedface", "0123456789ab", "engine c", "# lion",
                 "lr 0.05", "warm-up 0.05, decay linear", "61,000 parameters", "40 D^-0.3 + 1.5"):  # fmt: skip
        assert said in page, said


# --- what it may be given -----------------------------------------------------------------------------------

EDGES = {
    "nothing compared": validation(),
    "no metric": validation(LION, metric=""),
    "no sensitivity": validation(replace(LION, sensitivity={})),
    "no preset": validation(LION, preset="", text="/home/<me>/text.txt", limits=[]),
    "ten": validation(*(contender(f"c{i}", Interval(0.5 + i / 8, 0.4, 2), 0.2) for i in range(10))),
    "infinite": validation(
        contender("lion", Interval(32, 1 / 32, 32), math.nan, gap=-math.inf),
        replace(
            LION, name="other", cost=StepCost(0.0, 0.0, 0.0, 0), sensitivity={1.0: result(math.nan, 0.5, 0, "NaN")}
        ),
    ),
    "all diverged": validation(contender("lion", Interval(1 / 32, 1 / 32, 1 / 32), 0.0, diverged=8)),
    "flat law": validation(FLAT, law=PowerLaw(0.0, 0.0, 2.0)),
    "straight law": validation(LION, law=PowerLaw(0.1, 0.0, 2.0)),
    "long": validation(replace(LION, program="def f(w, g):\n" + "    g = g * g + sin(g)\n" * 400)),
    "no runs": validation(replace(LION, results={0.5: {}, 1.0: {}})),
}


@pytest.mark.parametrize("found", EDGES.values(), ids=EDGES)
def test_edges(found, tmp_path):
    page = written(found, tmp_path)
    assert "</html>" in page
    assert not re.search(r"\b(Undefined|None)\b", words(page))
    if not found.metric:
        assert "metric" not in table_rows(page)[0]
    assert repr(read_validation(tmp_path / "validation.json")) == repr(found)  # NaN is not equal to itself


def test_names_and_texts_are_escaped(tmp_path):
    name = '<em>&"$x$-->'
    found = validation(replace(contender(name, Interval(1.1, 0.9, 1.2), 0.3), program="a < b && <script>alert(1)"))
    page = written(replace(found, limits=["<i>"], machine={"<u>": "&"}), tmp_path)
    assert not re.search(r"<(em>|script|i>|u>)", page)
    assert f"{name} is not distinguishable" in words(page)
    assert "a < b && <script>alert(1)" in unescape(page)
    assert unescape(page.replace("&#34;", '"')).count(name) > 5
    assert all(f"{name}" in unescape(svg) for key, svg in plots(found).items() if key in ("speedup", "time"))


def test_a_long_name_leaves_room_for_the_plot():
    svg = plots(validation(replace(LION, name="cautious(very/long/folder/of/a/program.opt)")))["speedup"]
    assert "cautious(v" in svg and "/long/" not in svg


def test_runs_that_diverged_are_marked(tmp_path):
    with_some = words(written(validation(contender("lion", Interval(0.9, 0.5, 1.1), 0.3, diverged=2)), tmp_path))
    assert "runs that diverged (4 in all)" in with_some
    assert "no better than at initialisation" in with_some
    assert "runs that diverged" not in words(written(validation(LION), tmp_path))


def test_plots_that_have_nothing_to_show_are_left_out():
    sides = {name: replace(c, sensitivity={}) for name, c in validation(LION).contenders.items()}
    drawn = plots(validation(LION, contenders=sides))
    assert [name for name, svg in drawn.items() if not svg] == ["sensitivity"]
    assert [name for name, svg in plots(validation()).items() if not svg] == ["speedup", "time"]


# --- one file, by itself ------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Ids, what is referred to, and whether tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.refers += [value] if name in ("href", "src", "xlink:href") else []
            self.refers += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_it_needs_nothing_beside_it(tmp_path):
    text = written(validation(LION, contender("muon", Interval(1.3, 1.1, 1.5), 0.01)), tmp_path)
    assert not re.search(r"https?:|@import|<link|<script|<img|<\?xml|//[a-z]+\.", text)
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {ref.strip("'\"") for ref in page.refers} <= {f"#{i}" for i in page.ids}
    assert page.refers
    assert "prefers-color-scheme: dark" in text and "@media print" in text


def test_drawings_take_the_colour_of_the_page():
    svg = "".join(plots(validation(LION)).values())
    assert "currentColor" in svg
    assert set(re.findall(r"(?:stroke|fill): (#[0-9a-f]+)", svg)) == {"#3b82c4"}  # lion's; the rest follows the page


def test_equal_validations_give_equal_bytes(tmp_path):
    found = validation(LION)
    write_page(found, tmp_path / "a")
    matplotlib.rcParams["font.size"] = 30.0  # whatever a user has set
    try:
        write_page(read_validation(tmp_path / "a" / "validation.json"), tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 30.0
    finally:
        matplotlib.rcParams["font.size"] = 10.0
    for name in ("validation.json", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"validation.json", "report.html"}


def test_numbers_come_back_as_they_were(tmp_path):
    tenth = contender("tenth", Interval(0.1 + 0.2, 1e-300, np.nextafter(1, 2).item()), 1 / 3)
    found = validation(tenth)
    write_page(found, tmp_path)
    assert read_validation(tmp_path / "validation.json") == found


def test_a_page_that_fails_leaves_the_numbers(tmp_path, monkeypatch):
    def fails(found):
        raise RuntimeError("no drawing")

    monkeypatch.setattr("stepsmith.report.validation_page.plots", fails)
    with pytest.raises(RuntimeError):
        write_page(validation(LION), tmp_path)
    assert read_validation(tmp_path / "validation.json") == validation(LION)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "Invalid JSON"),
        (lambda text: "", "Invalid JSON"),
        (lambda text: text.replace('"alpha": 40.0', '"alpha": "forty"'), "law.alpha"),
        (lambda text: text.replace('"alpha": 40.0,', ""), "law.alpha"),
        (lambda text: text.replace('"name": "lion"', '"name": "other"'), "'lion' has another name"),
        (lambda text: text.replace('"AdamW"', '"sgd"'), "it has no AdamW"),
    ],
    ids=["half", "empty", "word", "missing", "renamed", "no AdamW"],
)
def test_a_damaged_file_is_told_in_one_line(damage, said, tmp_path):
    write_page(validation(LION), tmp_path)
    path = tmp_path / "validation.json"
    path.write_text(damage(path.read_text("utf-8")), "utf-8")
    with pytest.raises(DamagedValidation) as error:
        read_validation(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told_in_one_line(tmp_path):
    with pytest.raises(DamagedValidation, match="cannot be read: No such file"):
        read_validation(tmp_path / "validation.json")
