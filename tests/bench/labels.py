"""Labels that come late, are wrong, or are meant to mislead: what the learner makes of them, against a truth that is known.

One simulated stationary stream of clicks: a category and a number say how likely one is. All goes through join and learner as
in production; what is shown is the expected log loss of the learner's probabilities under the true ones.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import torch
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from store.encoding import Encoder
from store.protocols import Entry
from store.records import Cut, Feedback, FeedbackBatch, LogRecord, Outcome, Predictions, Served, pack_log
from store.schema import Row
from store.spec import LabelPolicy, Learning, ModelSpec, Schedule
from tests.bench.verdict import Verdict, say
from trainer.join import LabelJoin
from trainer.learner import Learner

PLACES, RATE_S, BATCH, ROWS = 50, 100.0, 256, 60_000
DELAY_S, WINDOW_S = 60.0, 300.0
"""Labels come after a minute on average, exponentially; nobody waits longer than the window."""

SOURCES = {"hand": 0.95, "rule": 0.75, "crowd": 0.6}
SERVED = [Served("main", 1, 1.0)]
AGAIN = "-again"
console = Console(width=120)


class Click(BaseModel):
    place: str
    x: float


@dataclass(frozen=True)
class World:
    """Predictions at an even rate, and the truth of each."""

    place: np.ndarray
    x: np.ndarray
    p: np.ndarray
    truth: np.ndarray
    delay_s: np.ndarray

    @classmethod
    def drawn(cls, seed: int, rows: int) -> "World":
        draw = np.random.default_rng(seed)
        of_place = np.random.default_rng(0).normal(0.0, 1.0, PLACES)
        place, x = draw.integers(0, PLACES, rows), draw.uniform(-1.0, 1.0, rows)
        p = 1.0 / (1.0 + np.exp(-(of_place[place] + 1.5 * x - 2.0)))
        return cls(
            place, x, p, (draw.random(rows) < p).astype(int), np.minimum(draw.exponential(DELAY_S, rows), WINDOW_S - 1.0)
        )

    def row(self, number: int) -> Row:
        return [f"p{self.place[number]}", float(self.x[number])]


def spec(labels: LabelPolicy) -> ModelSpec:
    return ModelSpec(
        name="click",
        features=Click,
        labels=labels,
        learning=Learning(passes=1),
        schedule=Schedule(outcomes=BATCH, seconds=None),
    )


def entries(world: World, told: Callable[[int], list[tuple[float, Feedback]]]) -> Iterator[Entry]:
    """Yield the log: a prediction at each tick, and what is `told` of each: feedback, so many seconds later."""
    coming: list[tuple[float, int, Feedback]] = []
    count = 0

    def entry(at: float, record: LogRecord) -> Entry:
        nonlocal count
        count += 1
        return Entry(f"{int(at * 1000) + 1}-{count}", pack_log(record))

    def predicted(id_: str, number: int, now: float) -> Predictions:
        return Predictions(now, [id_], [id_], [world.row(number)], [[0.5]], SERVED, [0])

    now = 0.0
    for number in range(len(world.x)):
        now = number / RATE_S
        while coming and coming[0][0] <= now:
            at, _, event = heappop(coming)
            if event.id.endswith(AGAIN):
                yield entry(now, predicted(event.id, int(event.id.removesuffix(AGAIN)), now))
            yield entry(now, FeedbackBatch(at, [event]))
        yield entry(now, predicted(str(number), number, now))
        for place, (delay_s, event) in enumerate(told(number)):
            heappush(coming, (now + delay_s, number * 10 + place, event))
    yield entry(now, Cut("end", now))


def learned(
    world: World, labels: LabelPolicy, told: Callable[[int], list[tuple[float, Feedback]]], test: World
) -> tuple[list[float], Learner]:
    """Return the expected log loss after each tenth of the stream, and the learner."""
    declared = spec(labels)
    learner, join = Learner(declared), LabelJoin(declared.record)
    encoded = Encoder(declared.record.features).encode([test.row(number) for number in range(len(test.x))])
    inputs = torch.from_numpy(encoded.numbers), torch.from_numpy(encoded.categories)
    batch: list[Outcome] = []
    losses: list[float] = []
    log = list(entries(world, told))
    for tenth in range(10):
        for record in join.feed(log[len(log) * tenth // 10 : len(log) * (tenth + 1) // 10]):
            if not isinstance(record, Cut):
                batch += record.outcomes
            elif batch:
                learner.learn(batch, record.log_position)
                batch = []
        with torch.no_grad():
            q = np.clip(learner.scorer(*inputs).numpy()[:, 0].astype(float), 1e-6, 1 - 1e-6)
        losses.append(float(-np.mean(test.p * np.log(q) + (1 - test.p) * np.log(1 - q))))
    return losses, learner


def policies(rows: int = ROWS, seed: int = 1) -> None:
    """`corrected` beside the other policies, and an oracle to whom labels come at once."""
    world, test = World.drawn(seed, rows), World.drawn(seed + 100, 5000)

    def clicks(number: int) -> list[tuple[float, Feedback]]:
        return [(float(world.delay_s[number]), Feedback(str(number), 1))] if world.truth[number] else []

    def at_once(number: int) -> list[tuple[float, Feedback]]:
        return [(0.0, Feedback(str(number), int(world.truth[number])))]

    def answers(number: int) -> list[tuple[float, Feedback]]:
        """Silence is told too, but only when everybody has stopped waiting."""
        late = world.delay_s[number] if world.truth[number] else WINDOW_S - 1.0
        return [(float(late), Feedback(str(number), int(world.truth[number])))]

    def naive(number: int) -> list[tuple[float, Feedback]]:
        """Who is silent now has answered, and a click is another row."""
        return [(0.0, Feedback(str(number), 0)), *((at, one._replace(id=f"{number}{AGAIN}")) for at, one in clicks(number))]

    on_label = LabelPolicy(window_s=2 * WINDOW_S)
    runs = {
        "an oracle: labels at once": learned(world, on_label, at_once, test)[0],
        "corrected": learned(world, LabelPolicy(kind="corrected", window_s=WINDOW_S, default=0), clicks, test)[0],
        "at_window": learned(world, LabelPolicy(kind="at_window", window_s=WINDOW_S, default=0), clicks, test)[0],
        "on_label, clicks and late silence": learned(world, on_label, answers, test)[0],
        "naive: silence at once, clicks as rows of their own": learned(world, on_label, naive, test)[0],
    }
    least = float(-np.mean(test.p * np.log(test.p) + (1 - test.p) * np.log(1 - test.p)))
    oracle = runs["an oracle: labels at once"]
    table = Table(
        "policy", "after a tenth", "a third", "the end", "end, against the oracle's",
        title=f"{rows:,} predictions, labels after {DELAY_S:.0f} s, windows of {WINDOW_S:.0f} s of {rows / RATE_S:.0f} s; "
        f"expected log loss, the least possible is {least:.4f}",
    )  # fmt: skip
    for name, losses in runs.items():
        table.add_row(name, *(f"{losses[place]:.4f}" for place in (0, 2, 9)), f"{losses[9] / oracle[9] - 1:+.2%}")
    console.print(table)
    say(Verdict("corrected against the oracle", runs["corrected"][9] / oracle[9], "under", 1.02))


def doubtful(rows: int = ROWS // 2, seed: int = 2) -> None:
    """Three sources of known accuracies against their majority, and a flood from one that lies."""
    world, test = World.drawn(seed, rows), World.drawn(seed + 100, 5000)
    draw = np.random.default_rng(seed)
    votes = [
        [
            (name, int(truth) if draw.random() < right else 1 - int(truth))
            for name, right in SOURCES.items()
            if draw.random() < 0.6
        ]
        for truth in world.truth
    ]

    def said(number: int) -> list[tuple[float, Feedback]]:
        return [(0.0, Feedback(str(number), vote, None, name)) for name, vote in votes[number]]

    def majority(number: int) -> list[tuple[float, Feedback]]:
        if not votes[number]:
            return []
        share = sum(vote for _, vote in votes[number]) / len(votes[number])
        return [(0.0, Feedback(str(number), int(share > 0.5 or (share == 0.5 and number % 2 == 0))))]

    def flooded(number: int) -> list[tuple[float, Feedback]]:
        lies = number > rows * 2 // 3
        return [
            (0.0, Feedback(str(number), 1 - int(world.truth[number]) if lies else int(world.truth[number]), None, "rule"))
        ] + [one for one in said(number) if one[1].source != "rule"]

    plain, aware = LabelPolicy(window_s=WINDOW_S), LabelPolicy(window_s=WINDOW_S, sources=SOURCES)
    runs = {
        "majority vote": learned(world, plain, majority, test),
        "noise-aware": learned(world, aware, said, test),
        "a third of it a flood of lies from 'rule', believed": learned(world, plain, flooded, test),
        "the same flood, noise-aware": learned(world, aware, flooded, test),
    }
    least = float(-np.mean(test.p * np.log(test.p) + (1 - test.p) * np.log(1 - test.p)))
    table = Table("labels", "expected log loss", "above the least possible", title=f"{rows:,} predictions, sources {SOURCES}")
    for name, (losses, _) in runs.items():
        table.add_row(name, f"{losses[-1]:.4f}", f"{losses[-1] - least:.4f}")
    console.print(table)
    gain = (runs["noise-aware"][0][-1] - least) / (runs["majority vote"][0][-1] - least)
    say(Verdict("excess loss, noise-aware over majority", gain, "under", 1.0))
    flood = runs["the same flood, noise-aware"][0]
    say(Verdict("log loss with the flood, over that before it", flood[-1] / flood[6], "under", 1.02))


def label_figures() -> None:
    policies()
    doubtful()
