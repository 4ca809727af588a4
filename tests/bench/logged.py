"""What a platform learned of the flights, to be learned again: kept in a folder, so that only the first bench waits for it."""

from pathlib import Path

from deploy import detached
from deploy.at_store import at_store
from deploy.demo import MODEL, run_demo
from deploy.home import Home
from deploy.settings import Settings
from store.protocols import Store
from tuning.replay import Replay

KEPT = Path(".bench").absolute()


def at(folder: Path, until: str) -> Path:
    """Where it is kept."""
    return folder / f"flights-{until}"


def replayed(until: str, folder: Path) -> Replay:
    """Return it, until a day such as 2013-03-31; where it is not kept, a platform of its own replays the flights first."""
    kept = at(folder, until)
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        settings = Settings(home=folder / "home")
        run_demo(settings, until=until, seed=0, keep_running=True, report=folder / "report", trials=False)
        try:

            async def gather(store: Store) -> Replay:
                return await Replay.of(store, (await store.models())[MODEL], settings.archive_folder)

            at_store(settings, Home(settings.home).expect().redis_url, gather).save(kept)
        finally:
            detached.stop(Home(settings.home))
    return Replay.load(kept)
