"""A state store that was restored or lost: what docs/operate/backup.md says to do leaves equal stores."""

from __future__ import annotations

import copy

from support.doubles import MemoryState
from support.world import PARAGRAPHS, World, make_world


def change(world: World, versions: int) -> None:
    """Let an object change a number of times, each time with other passages; another one comes and goes."""
    for number in range(versions):
        world.wall_s += 60
        world.bucket.put("doc-03.txt", f"{PARAGRAPHS[0]}\n\nVersion {number} of a long second paragraph of this text.")
        world.bucket.put("late.txt", f"The late object in its version {number}.")
        world.run()


def make_used_world() -> World:
    world = make_world()
    world.wall_s = 1_000
    world.run()
    return world


def check(world: World) -> None:
    """Both stores hold the present versions of all objects and nothing else."""
    assert world.texts("doc-03.txt") == [PARAGRAPHS[5]]
    assert world.texts("late.txt") == ["The last version of the late object."]
    verified = world.run(mode="verify")
    assert verified["state"] == "succeeded"
    assert (verified["counts"]["different"], verified["counts"]["foreign_points"]) == (0, 0)


def put_last_versions(world: World) -> None:
    world.wall_s += 60
    world.bucket.put("doc-03.txt", PARAGRAPHS[5])
    world.bucket.put("late.txt", "The last version of the late object.")


def test_a_job_removes_what_it_replaces_although_the_restored_lease_has_a_lower_epoch_than_the_points() -> None:
    """Objects that the backup knows need no repair: a sync alone leaves their last version only."""
    world = make_used_world()
    backup = copy.deepcopy(world.state.values)
    change(world, 3)
    world.state.values = backup
    put_last_versions(world)
    world.run()
    assert world.texts("doc-03.txt") == [PARAGRAPHS[5]]


def test_repair_and_sync_bring_the_stores_forward_from_a_restored_state_store() -> None:
    """Repair removes what the backup does not know, so the sync finds nothing that it would not replace."""
    world = make_used_world()
    backup = copy.deepcopy(world.state.values)
    change(world, 3)
    world.state.values = backup
    put_last_versions(world)
    world.run(mode="repair")
    world.run()
    check(world)


def test_full_and_repair_rebuild_a_lost_state_store() -> None:
    """Nothing is known of the collection: every object is embedded again, and points of unknown objects are removed."""
    world = make_used_world()
    change(world, 3)
    world.bucket.put("gone.txt", "An object that is gone when the state store is lost.")
    world.run()
    del world.bucket.objects["gone.txt"]
    world.state = MemoryState()
    put_last_versions(world)
    world.run(mode="full")
    world.run(mode="repair")
    check(world)
