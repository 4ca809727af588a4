"""Where the learners of lines beside main are."""

from typing import Any

from store.lines import Line, learner_state, read_lines
from store.names import learner_consumer
from store.protocols import Store, position_key


async def at_a_glance(store: Store, model: str) -> dict[str, Any]:
    """Return what the platform's status says of a model's lines: which one became main, and where those beside it are."""
    lines = await read_lines(store, model)
    active = [{"name": line.name} | await progress(store, model, line) for line in lines.active]
    return {"way": lines.main.name if lines.main is not None else None, "lines": active}


async def progress(store: Store, model: str, line: Line) -> dict[str, Any]:
    """Return where an active line's learner is; `behind_s` is how much of the outcome stream main is ahead, in seconds."""
    if line.status != "active":
        return {}
    known = await learner_state(store, model, line)
    if known is None:
        return {"begun": False, "caught_up": False}
    main, _ = await store.consumer(learner_consumer(model))
    behind_s = (position_key(main)[0] - position_key(known["position"])[0]) / 1000.0
    newest = (await store.snapshot(model)).channels.get(f"{line.name}@latest")
    state = {name: known[name] for name in ("caught_up", "verdict", "recent_loss", "position")}
    return {"begun": True, "behind_s": max(0.0, behind_s), "version": newest if known["caught_up"] else None, **state}
