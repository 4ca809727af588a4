"""The worst line takes over the best one's state, with settings changed by chance, and the same chance for the same step."""

from router.evolution import ENOUGH, Competitor, takeover

LEARNING, SHAPE = {"learning_rate": 0.1, "weight_decay": 0.01, "passes": 3}, {"hidden": [8]}
MAIN = Competitor("main", LEARNING, SHAPE)


def _line(name: str, difference: float, micro_batches: int = ENOUGH, born: int = 1) -> Competitor:
    return Competitor(name, {**LEARNING, "passes": 2}, SHAPE, difference, micro_batches, born)


def test_the_worst_takes_over_from_the_best() -> None:
    found = takeover(MAIN, [_line("a", -0.1), _line("b", 0.2), _line("c", 0.1)], 0)
    assert found is not None
    assert (found.loser, found.winner, found.shape, found.learning["passes"]) == ("b", "a", SHAPE, 2)
    assert found.learning["learning_rate"] in (0.1 * 0.8, 0.1 * 1.25)
    assert found.learning["weight_decay"] in (0.01 * 0.8, 0.01 * 1.25)


def test_main_may_win_and_never_loses() -> None:
    found = takeover(MAIN, [_line("a", 0.1)], 0)
    assert found is not None
    assert (found.loser, found.winner, found.learning["passes"]) == ("a", "main", 3)
    assert takeover(MAIN, [_line("a", -0.1)], 0) is None


def test_who_has_scored_too_little_is_left_alone() -> None:
    assert takeover(MAIN, [_line("a", 0.1, ENOUGH - 1)], 0) is None
    assert takeover(MAIN, [], 0) is None


def test_the_same_step_comes_out_the_same_and_others_do_not() -> None:
    def changed(seed: int, born: int) -> tuple[float, float]:
        found = takeover(MAIN, [_line("a", 0.1, born=born)], seed)
        assert found is not None
        return found.learning["learning_rate"], found.learning["weight_decay"]

    assert changed(3, 4) == changed(3, 4)
    assert len({changed(seed, born) for seed in range(8) for born in range(8)}) == 4
