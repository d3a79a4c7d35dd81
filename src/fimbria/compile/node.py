"""The compiler: what a node knows in, exact map contents out.

`compile_node` works out everything; a `Compiler` keeps up with changes of a state and gives each
time only what changed. Both go through the same code, so they cannot disagree: a full compile is an
update with every row dirty.

    state.policies.put(key, policy); state.remote.delete(ip); …
    delta = compiler.update()           # -> datapath.plan.plan_delta -> operations
    …apply…
    compiler.applied()                  # policy ids that came free may be used again
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.compile.addresses import Addresses
from fimbria.compile.delta import Delta, Desired, Problem, Store
from fimbria.compile.nodeids import NodeIdentities
from fimbria.compile.policies import Policies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fimbria.compile.ids import Ids
    from fimbria.compile.state import ClusterState
    from fimbria.model.policy import PolicyKey

__all__ = ["Compiler", "Delta", "Desired", "Problem", "compile_node"]


def _all(problems: Sequence[Problem]) -> bool:
    """Admit everything."""
    return False


class Compiler:
    """Follows one state, of which it takes the dirty keys. `state.config` must not change."""

    def __init__(self, state: ClusterState, ids: Ids) -> None:
        self.state = state
        self.ids = ids
        self._store = Store()
        self.policies = Policies(state, ids, self._store)
        self.node_ids = NodeIdentities(state, self.policies.selectors)
        self._addresses = Addresses(
            state, self._store, self.policies.selectors.cidrs, self.node_ids
        )
        for table in state.tables():
            table.touch_all()

    def update(self, admit: Callable[[Sequence[Problem]], bool] = _all) -> Delta:
        """Take up all changes of the state since the last call; the first one is everything.

        `admit` is shown the problems: as long as it returns True, it has changed the state (put
        back what does not fit), and that is taken up too, so that what is put back is no change.
        """
        keys = self._take_up()
        if self.problems:  # what is leaving must not be what does not fit
            self._settle(keys)
        while admit(self.problems):
            self._take_up()
        delta = self._store.take()
        self._settle()
        delta.then = self._store.take() or None
        return delta

    def _settle(self, keys: Iterable[PolicyKey] = ()) -> None:
        """Let the local identities go that no address has any more; `keys` as Policies.update."""
        self.policies.selectors.settle()
        renumbered = self.node_ids.settle()
        self.policies.update((), (), (), keys)
        self._addresses.update((), (), renumbered)

    def _take_up(self) -> set[PolicyKey]:
        """Take the dirty rows; return the policies among them."""
        state, selectors = self.state, self.policies.selectors
        local, remote, nodes = (
            state.local.take_dirty(), state.remote.take_dirty(), state.nodes.take_dirty(),
        )  # fmt: skip
        keys = state.policies.take_dirty() | state.trials.take_dirty()
        selectors.set_groups({name: state.groups.get(name) for name in state.groups.take_dirty()})
        selectors.set_services(
            {key: state.services.get(key) for key in state.services.take_dirty()}
        )
        renumbered = self.node_ids.update(nodes)
        self.policies.update(local, state.identities.take_dirty(), remote, keys, nodes)
        # Last, because it is policies that put prefixes in use.
        self._addresses.update(local, remote, renumbered)
        return keys

    def desired(self) -> Desired:
        """Return everything as of the last update: live views, to be read at once."""
        return Desired(self._store.maps, self._store.policies, self._store.routes)

    @property
    def problems(self) -> list[Problem]:
        """Return what could not be compiled as of the last update."""
        return [self.policies.problems[key] for key in sorted(self.policies.problems)]

    def applied(self, unused: Iterable[int] = ()) -> None:
        """Note that the kernel holds what was last given, and of other policies only `unused`."""
        self.ids.policies.retain(self.policies.used().union(unused))


def compile_node(state: ClusterState, ids: Ids) -> Desired:
    """Return all that the kernel should hold for `state`. Numbers come from `ids`.

    The state's dirty keys are taken.
    """
    compiler = Compiler(state, ids)
    ids.rules.retain({*state.policies, *state.trials})
    compiler.update()
    return compiler.desired()
