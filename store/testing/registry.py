"""The contract of ModelRegistry."""

import asyncio

import pytest

from store.errors import Fenced, ModelExists, NotFound, SpecError
from store.protocols import START, Advance, Commit, Graph, ModelRegistry, Store, Version, position_key
from store.spec import Schedule
from store.testing.things import OtherFeatures, model_record, step, version


@pytest.mark.anyio
class ModelRegistryContract:
    """Models, versions under rising numbers, and weights that may be forgotten."""

    async def test_what_is_registered_is_on_record(self, store: ModelRegistry) -> None:
        assert await store.models() == {}
        records = [model_record("m"), model_record("n", OtherFeatures)]
        for record in records:
            await store.register(record)
        assert await store.models() == {record.name: record for record in records}

    async def test_a_version_may_be_there_before_its_model(self, store: ModelRegistry) -> None:
        graph = Graph("abc", b"onnx", b"golden")
        await store.put_graph("m", graph)
        made = await store.commit("m", Commit(step(START, "1-0"), version("1-0"), b"w"))
        assert await store.models() == {}
        await store.register(model_record())
        assert await store.versions("m") == [made]
        assert await store.graph("m", "abc") == graph

    async def test_an_operators_schedule_survives_the_next_registration(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        chosen = Schedule(outcomes=7, seconds=None)
        await store.set_schedule("m", chosen)
        await store.register(model_record(max_skew_s=5.0))
        record = (await store.models())["m"]
        assert (record.schedule, record.max_skew_s) == (chosen, 5.0)

    async def test_of_many_who_change_a_record_at_once_none_loses_a_change(self, store: ModelRegistry) -> None:
        """Each field has one writer that changes it again and again, and must find its own last change afterwards."""
        await store.register(model_record())

        async def schedules() -> None:
            for number in range(1, 31):
                await store.set_schedule("m", Schedule(outcomes=number))
                assert (await store.models())["m"].schedule.outcomes == number

        async def loading() -> None:
            for number in range(30):
                await store.set_loaded("m", bool(number % 2))
                assert (await store.models())["m"].loaded == bool(number % 2)

        async def declarations() -> None:
            for number in range(30):
                await store.register(model_record(max_skew_s=float(number)))
                assert (await store.models())["m"].max_skew_s == float(number)

        await asyncio.gather(schedules(), loading(), declarations())
        record = (await store.models())["m"]
        assert (record.schedule.outcomes, record.loaded, record.max_skew_s) == (30, True, 29.0)

    async def test_a_declaration_that_weights_would_not_fit_is_refused(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        with pytest.raises(SpecError, match="'m'"):
            await store.register(model_record("m", OtherFeatures))
        with pytest.raises(SpecError):
            await store.register(model_record(objective="regression"))
        assert await store.models() == {"m": model_record()}

    async def test_there_is_no_schedule_without_a_model(self, store: ModelRegistry) -> None:
        with pytest.raises(NotFound):
            await store.set_schedule("m", Schedule())

    async def test_a_graph_comes_back_whole(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        graph = Graph("abc", bytes(range(256)), b"\0golden")
        await store.put_graph("m", graph)
        assert await store.graph("m", "abc") == graph
        with pytest.raises(NotFound):
            await store.graph("m", "abd")

    async def test_versions_are_numbered_from_one_and_listed_newest_first(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        assert await store.versions("m") == []
        made: list[Version | None] = []
        for number in range(1, 4):
            commit = Commit(step(f"{number - 1}-0", f"{number}-0"), version(f"{number}-0"), b"w%d" % number)
            made.append(await store.commit("m", commit))
        assert [one.number for one in made if one] == [1, 2, 3]
        assert await store.versions("m") == made[::-1]
        assert await store.versions("m", last=2) == made[:0:-1]
        assert await store.version("m", 2) == made[1]
        assert await store.weights("m", 2) == b"w2"

    async def test_a_position_publishes_once(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        commit = Commit(step(START, "1-0", b"state", b"blob"), version("1-0"), b"w")
        await store.commit("m", commit)
        with pytest.raises(Fenced):
            await store.commit("m", commit)
        assert [one.number for one in await store.versions("m")] == [1]

    async def test_of_many_that_publish_from_one_place_one_does(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        commits = [Commit(step(START, f"{n}-0"), version(f"{n}-0"), b"%d" % n) for n in range(1, 9)]
        results = await asyncio.gather(*(store.commit("m", one) for one in commits), return_exceptions=True)
        [made] = [result for result in results if isinstance(result, Version)]
        assert await store.versions("m") == [made]
        assert made.position == f"{(await store.weights('m', 1)).decode()}-0"

    async def test_others_move_beside_a_learner_or_nobody_moves(self, store: Store) -> None:
        beside = (Advance("a", START, "7-0", b"one", b"more"), Advance("b", START, START))
        made = await store.commit("m", Commit(step(START, "1-0"), version("1-0"), b"w", b"{number}", beside))
        assert made is not None
        assert [await store.consumer(name) for name in ("a", "b")] == [("7-0", b"one"), (START, b"")]
        assert await store.blob("a") == b"more"
        for elsewhere in (Advance("a", "6-0", "8-0"), Advance("b", "6-0", "6-0")):
            steps = (Advance("c", START, "1-0"), elsewhere)
            with pytest.raises(Fenced, match=f"{elsewhere.consumer} is at {'7-0' if elsewhere.consumer == 'a' else START}"):
                await store.commit("m", Commit(step("1-0", "2-0"), version("2-0"), b"w", beside=steps))
        with pytest.raises(Fenced, match="learner:m:main is at 1-0"):
            await store.commit("m", Commit(step(START, "2-0"), beside=(Advance("c", START, "1-0"),)))
        assert await store.versions("m") == [made]
        assert await store.consumer("c") == (START, b"")
        assert await store.consumer("learner:m:main") == ("1-0", b"")
        # What has no blob keeps the one that there was.
        await store.commit("m", Commit(step("1-0", "2-0"), beside=(Advance("a", "7-0", START),)))
        assert (await store.consumer("a"), await store.blob("a")) == ((START, b""), b"more")

    async def test_a_learner_may_move_without_publishing(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        assert await store.commit("m", Commit(step(START, "1-0"))) is None
        assert await store.versions("m") == []
        with pytest.raises(Fenced):
            await store.commit("m", Commit(step(START, "2-0"), version("2-0"), b"w"))

    async def test_a_rejected_version_stays_on_record_without_weights(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        made = await store.commit("m", Commit(step(START, "1-0"), version("1-0", "rejected"), b""))
        assert made is not None
        assert await store.version("m", made.number) == made
        with pytest.raises(NotFound):
            await store.weights("m", made.number)

    async def test_forgotten_weights_leave_the_record(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        for n in (1, 2):
            await store.commit("m", Commit(step(f"{n - 1}-0", f"{n}-0"), version(f"{n}-0"), b"w"))
        await store.forget_weights("m", [1, 77])
        await store.forget_weights("m", [])
        with pytest.raises(NotFound):
            await store.weights("m", 1)
        assert (await store.version("m", 1)).number == 1
        assert await store.weights("m", 2) == b"w"

    async def test_a_version_that_never_was_is_not_found(self, store: ModelRegistry) -> None:
        await store.register(model_record())
        for number in (0, -1, 1):
            with pytest.raises(NotFound):
                await store.version("m", number)
            with pytest.raises(NotFound):
                await store.weights("m", number)

    async def test_a_model_is_added_once(self, store: ModelRegistry) -> None:
        await store.add(model_record(source="here:spec"))
        with pytest.raises(ModelExists, match="'m' already"):
            await store.add(model_record())
        assert await store.models() == {"m": model_record(source="here:spec")}
        await store.register(model_record())  # whoever does not know where it is declared leaves that as it is
        assert (await store.models())["m"].source == "here:spec"

    async def test_a_removed_model_is_kept_and_goes_on_where_it_was(self, store: ModelRegistry) -> None:
        await store.add(model_record())
        chosen = Schedule(outcomes=7, seconds=None)
        await store.set_schedule("m", chosen)
        made = await store.commit("m", Commit(step(START, "1-0", b"state", b"blob"), version("1-0"), b"w"))
        await store.remove("m")
        assert await store.models() == {}
        assert list(await store.removed()) == ["m"]
        for gone in (store.remove("m"), store.set_schedule("m", Schedule()), store.set_loaded("m", True)):
            with pytest.raises(NotFound):
                await gone
        with pytest.raises(SpecError, match="purge"):
            await store.add(model_record("m", OtherFeatures))
        await store.add(model_record())
        assert (await store.models())["m"].schedule == chosen
        assert await store.removed() == {}
        assert await store.versions("m") == [made]
        assert await store.weights("m", 1) == b"w"

    async def test_of_a_purged_model_nothing_is_left(self, store: ModelRegistry) -> None:
        for name in ("m", "m2"):
            await store.add(model_record(name))
            await store.put_graph(name, Graph("abc", b"onnx", b"golden"))
        await store.commit("m", Commit(step(START, "1-0", b"state", b"blob"), version("1-0"), b"w"))
        with pytest.raises(NotFound):
            await store.purge("m")
        await store.remove("m")
        await store.purge("m")
        with pytest.raises(NotFound):
            await store.purge("m")
        assert await store.removed() == {}
        assert await store.versions("m") == []
        for gone in (store.graph("m", "abc"), store.weights("m", 1)):
            with pytest.raises(NotFound):
                await gone
        assert (await store.graph("m2", "abc")).onnx == b"onnx"
        await store.add(model_record("m", OtherFeatures))
        again = await store.commit("m", Commit(step(START, "1-0"), version("1-0"), b"w"))
        assert again is not None
        assert again.number == 1

    async def test_removing_and_adding_is_known_to_those_who_look_later(self, store: ModelRegistry) -> None:
        await store.add(model_record())
        first = await store.remove("m")
        await store.add(model_record())
        assert position_key(await store.remove("m")) > position_key(first)

    async def test_of_two_who_add_a_model_one_does(self, store: ModelRegistry) -> None:
        done = await asyncio.gather(*(store.add(model_record()) for _ in range(2)), return_exceptions=True)
        assert [type(one) for one in done if one is not None] == [ModelExists]
