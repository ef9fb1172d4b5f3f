"""Several gateways: one user of a server, caps that hold, and every server owned soon after any change."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion_engine.gateway.peers.plan import Terms
from support.gateway_world import GatewayWorld

HANDOVER_S = 10.0
URLS = [f"http://gateway-{number}:11430" for number in range(3)]

gaps = st.one_of(st.floats(0, 1), st.floats(0, 8))
"""Seconds between two changes; a death is noticed after about five."""
events = st.tuples(
    gaps,
    st.sampled_from(["start", "kill", "restart", "freeze", "freeze", "leave", "servers"]),
    st.sampled_from(URLS),
    st.floats(0, 9),
)
terms = st.builds(
    Terms,
    st.integers(1, 7).map(lambda count: {f"http://ollama-{number}:11434": 1 + number % 3 for number in range(count)}),
    st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.integers(4, 40).map(float)),
    st.just(4),
)


class Drill:
    """Changes at their times, and the ends of the pauses that they began."""

    def __init__(self, world: GatewayWorld) -> None:
        self.world = world
        self.frozen_until: dict[str, float] = {}

    def pass_time(self, seconds: float) -> None:
        """Let time pass; processes go on when their pauses end."""
        end = self.world.now + seconds
        for url, until in sorted(self.frozen_until.items(), key=lambda item: item[1]):
            if until <= end:
                self.world.run(until - self.world.now)
                self.world.resume(url)
                del self.frozen_until[url]
        self.world.run(end - self.world.now)

    def finish(self) -> None:
        """Let all pauses end."""
        self.pass_time(max([0.0, *(until - self.world.now for until in self.frozen_until.values())]))

    def change(self, kind: str, url: str, freeze_s: float) -> None:
        if kind in ("kill", "restart"):
            self.world.kill(url)
            self.frozen_until.pop(url, None)
        process = self.world.processes.get(url)
        if kind in ("start", "restart") and process is None:
            self.world.start(url, URLS)
        if process is None or url in self.frozen_until:
            return
        if kind == "freeze":
            self.world.freeze(url)
            self.frozen_until[url] = self.world.now + freeze_s
        if kind == "leave":
            process.membership.leave()
        if kind == "servers":
            process.membership.set_servers({"http://ollama-0:11434": 1, "http://ollama-new:11434": 2})


@settings(max_examples=100, deadline=None)
@given(
    terms,
    st.lists(gaps, min_size=len(URLS), max_size=len(URLS)),
    st.lists(events, max_size=6),
    st.integers(0, 1 << 16),
)
def test_no_server_has_two_users_and_every_server_gets_one(
    given_terms: Terms, starts: list[float], changes: list[tuple[float, str, str, float]], seed: int
) -> None:
    """Whatever starts, dies, stands still and leaves, with messages under way for up to 0.7 s each way."""
    world = GatewayWorld(given_terms, seed)
    drill = Drill(world)
    for gap, url in zip(starts, URLS, strict=True):
        world.start(url, URLS)
        drill.pass_time(gap)
    for gap, kind, url, freeze_s in changes:
        drill.pass_time(gap)
        drill.change(kind, url, freeze_s)
        assert not world.faults
    drill.finish()
    world.run(HANDOVER_S)
    for _ in range(4):
        assert not world.faults
        living = [each.membership for each in world.processes.values()]
        stated = [each for each in (membership.statement() for membership in living) if not each["leaving"]]
        if stated:
            used = sorted(server for each in world.rights().values() for server in each.servers or ())
            assert used == sorted({server for each in stated for server in each["servers"]})
            assert len({each["plan"] for each in stated}) == 1
        world.run(1.0)
