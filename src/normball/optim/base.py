"""The common part of every optimizer: estimate, minimiser, one global number, step."""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from normball import parallel
from normball._numeric import apart, largest_entry
from normball._scalar import Flag, Scalar, every, flag, negated, tensor, where, wide
from normball.optim import capture, metrics, overlap, validate
from normball.optim.average import Average
from normball.optim.buckets import Bucket, Roster
from normball.optim.estimate import Estimate, Estimator
from normball.optim.geometry import Geometry
from normball.optim.grouped import Remembered
from normball.optim.saved import Saved
from normball.optim.settings import Group, Settings
from normball.optim.sharded import settle
from normball.optim.start import enter_ball
from normball.optim.totals import totals
from normball.optim.update import Update, move
from normball.optim.watch import Watch


class NormBallOptimizer(Saved):
    """Steps along `v = -lmo(d)`, with one global number for their length.

    The `Estimator` computes `d`, and the geometry `lmo`, for all layers together. A subclass
    computes in `_factor` which share of the longest step to take.
    """

    def __init__(
        self,
        params: ParamsT,
        defaults: Group,
        settings: Settings,
        geometry: Geometry,
        *,
        maximize: bool,
        state_dtype: torch.dtype | None,
        reuse_grad: bool,
        nesterov: bool,
        average: float | None,
        lazy: bool = False,
        stages: Any = None,
    ) -> None:
        validate.check_state_dtype(state_dtype)
        for name, value in (("nesterov", nesterov), ("lazy", lazy)):
            if not isinstance(value, bool):
                raise TypeError(f"{name}={value!r} must be True or False")
        if settings.capturable and geometry.split:
            raise ValueError(
                "capturable=True and split=True exclude each other: a step that exchanges data "
                "with other ranks is not captured"
            )
        if stages is not None and (settings.capturable or geometry.split):
            raise ValueError(
                "stages= exchanges numbers with other ranks, which capturable=True forbids, and "
                "split=True shares out what all ranks hold: leave both out"
            )
        if settings.constrained and geometry.comm_dtype is not None:
            raise ValueError(
                "constrained=True and comm_dtype exclude each other: a minimiser that is rounded "
                "to be sent can lie outside the ball"
            )
        validate.check_wrapper(stages)
        if average is not None:
            defaults = {**defaults, "average": average}
            settings = settings.with_number("average")
        self._settings = settings
        self._geometry = geometry
        self._estimator = Estimator.of(nesterov, lazy, maximize, state_dtype)
        self._average = Average() if "average" in defaults else None
        self._stages = None if stages is None else parallel.Stages(stages)
        self._copies, self._shapes, self._titles = [], set(), {}
        self._reuse_grad = reuse_grad
        self._known = Remembered()
        self._record = metrics.Record()
        if isinstance(params, Tensor):
            raise TypeError("params must be an iterable of tensors or groups: write [tensor]")
        self._watch = Watch(getattr(params, "model", None))
        given: list[Any] = list(params)
        self._plain_list = bool(given) and not isinstance(given[0], dict)
        # Schedulers that cycle the momentum look for it here.
        alpha = validate.check_number("alpha", defaults["alpha"], low=0, high=1, open_low=True)
        super().__init__(given, defaults | {"momentum": 1.0 - alpha})
        self._check_stages()

    @abstractmethod
    def _factor(self, size: Scalar, corner: Scalar | None) -> Scalar:
        """Return the share of the longest step in [0, 1].

        `size` is the global dual norm, or the global gap when constrained. `corner` is the global
        `max_l ||w_l||_l / r_l`, given only where `_needs_corner`.
        """

    @property
    def _needs_corner(self) -> bool:
        return False

    @property
    def _sums_up(self) -> bool:
        """Whether the length of a step depends on all layers together."""
        return True

    def _look(self, buckets: list[Bucket], grads: list[Tensor], finite: Flag) -> None:
        """Read the new gradients, before anything is changed."""

    def _took(self, factor: Scalar, finite: Flag) -> None:
        """Read which share of the longest step is taken, and whether it is not skipped."""

    # -- the step ------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take one step, and return the loss of `closure` if one is given.

        The step is skipped if the gradient of any parameter is not finite: weights and momentum
        stay bit for bit, and `metrics()["skipped"]` counts it. It is also skipped if a gradient
        entry exceeds half the largest number of the momentum's dtype, or if `lr` or `rho` is a
        tensor whose value is out of range. A parameter without a gradient does not change, and adds
        nothing to the dual norm.

        Raises:
            ValueError: a group was set to a number out of range, or to another `rho` than the other
                groups; a gradient is sparse. Nothing is changed.
            RuntimeError: a CUDA graph is being captured, and this optimizer is not `capturable` or
                has not taken a step yet; the averaged weights are in the model.
        """
        self._check_mode()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        roster, staged = self._collect(), self._stages is not None
        try:
            if not torch.compiler.is_compiling():
                self._watch.look(roster, self._params, staged, self._record, self._sums_up)
            if roster.params or staged:
                if capture.recording():
                    inside = self._known.inside if self._constrained else None
                    started = self._record.started
                    capture.check_now(self._settings, roster, self.state, inside, started)
                    capture.check_numbers(self.param_groups)
                with nullcontext() if self._stages is None else self._stages.inside():
                    self._advance(roster)
        finally:
            roster.leave()
        return loss

    @contextmanager
    def overlap_backward(self) -> Iterator[None]:
        """Begin with the step while the backward pass inside the `with` block still runs.

        A thread of its own computes the minimisers of layers that need the whole matrix, each as
        soon as its gradient is complete. `step` takes those that are ready, and computes the rest;
        the result is the same bit for bit. It pays where a core is free. With gradient
        accumulation, put the last backward pass alone into the block.

        A gradient that is changed after the pass (clipped, unscaled) is computed again by `step`,
        and so is everything after a change of `alpha`, an interrupted pass or a new set of
        parameters with gradients; the first step has nothing to take. Changes are seen by torch's
        version counters, which writing through `.data` or NumPy leaves as they are: do not do that.
        The minimisers take the memory of these gradients once more, also with `reuse_grad`.

        Raises:
            RuntimeError: several ranks, `capturable=True`, a parameter that is not on the CPU, or
                one norm over all parameters; the averaged weights are in the model.

        Examples:
            >>> from torch import nn
            >>> from normball import ClippedScion, param_groups
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            >>> optimizer = ClippedScion(param_groups(model))
            >>> for x in torch.randn(3, 16, 4):
            ...     optimizer.zero_grad()
            ...     loss = model(x).square().mean()
            ...     with optimizer.overlap_backward():
            ...         loss.backward()
            ...     optimizer.step()
        """
        self._check_mode()
        overlap.check(self._geometry, self._settings.capturable, self._params())
        self._check_groups()
        begun, roster = self._known.overlap, self._known.roster
        if begun is not None:
            begun.drop()
        self._known.overlap = None
        if roster is not None:
            self._known.overlap = overlap.Overlap(roster, self._maker())
        with self._known.overlap or nullcontext():
            yield

    def _maker(self) -> overlap.Maker:
        return overlap.Maker(
            self.state, self.param_groups, self._estimator, self._geometry, self._constrained,
            self._needs_corner, self._reuse_grad,
        )  # fmt: skip

    def _check_mode(self) -> None:
        """Raise RuntimeError where a step would train the averaged weights."""
        if self._average is not None and self._average.out:
            raise RuntimeError(
                "the averaged weights are in the model since optimizer.eval(): call "
                "optimizer.train() before the next step"
            )

    def _advance(self, roster: Roster) -> None:
        """Take the step: estimate, minimiser, dual norm, one factor for all layers, new weights."""
        params, buckets, constrained = roster.params, roster.buckets, self._constrained
        grads = [bucket.join([param.grad for param in bucket.params]) for bucket in buckets]
        finite, empty = self._sound(roster, grads)
        taken = finite & negated(empty) if self._estimator.lazy else finite
        self._estimator.rest(buckets, grads, constrained)
        self._look(buckets, grads, taken)
        if constrained:
            enter_ball(self._geometry, params, self._known.inside, taken, self.state)

        free = apart(grads) if self._reuse_grad else [False] * len(grads)
        free = [own and not bucket.stacked for own, bucket in zip(free, buckets, strict=True)]
        rooms = [grad if own else None for grad, own in zip(grads, free, strict=True)]
        ready = self._ready(roster, free, taken)
        estimates = self._estimator.take_in(self.state, buckets, grads, free, taken)
        # A compiler frees memory by itself. It compiles a function that is called from plain code,
        # as this one is after the break of the first constrained step, only if it names torch.
        if not torch.compiler.is_compiling():
            del grads
        if self._average is not None:
            self._average.begin(self.state, [param.tensor for param in params])
        updates = self._minimise(buckets, estimates, rooms, taken, ready)
        corners = self._geometry.corners(buckets, updates) if self._needs_corner else None
        groups = len(self.param_groups)
        total = totals(buckets, updates, corners, groups, constrained, self._stages, self._zero())
        factor = self._factor(total.size, total.corner)

        # Weights that are already NaN give a gap of NaN: a step would only spread it.
        sound = total.size == total.size
        finite, taken = finite & sound, taken & sound
        factor = where(taken, factor, 0.0)
        self._took(factor, taken)
        move(buckets, updates, factor, taken, constrained)
        # A step with all estimates zero is not counted: torch.distributed.checkpoint takes such a
        # step to create the state.
        moved = taken & (total.dual != 0)
        self._estimator.took(moved)
        self._record.add(total.size, factor, total.per_group, moved, finite)
        if self._average is not None:
            weight = self.param_groups[0]["average"]
            self._average.take_in(self.state, self._params(), weight, moved)

    def _sound(self, roster: Roster, grads: list[Tensor]) -> tuple[Flag, Flag]:
        """Return whether gradients and numbers are finite, and whether all gradients are 0.

        Both hold on all ranks alike.
        """
        largest = largest_entry(grads)
        finite: Flag = every([largest <= roster.limit, self._settings.sound(self.param_groups)])
        empty: Flag = largest == 0
        if roster.sharded or self._stages is not None:
            device = (grads[0] if grads else next(self._params())).device
            own = tensor(where(finite, 1 + empty, 0), torch.zeros((), device=device))
            vote = parallel.least_vote(own)
            finite, empty = flag(vote > 0), flag(vote == 2)
        return finite, empty

    def _minimise(
        self, buckets: list[Bucket], estimates: list[Estimate], rooms: list[Tensor | None],
        finite: Flag, ready: dict[int, Update],
    ) -> list[Update]:  # fmt: skip
        """Return the minimiser and the dual norm of every bucket, summed over ranks.

        `ready` has those that were computed during the backward pass, by number.

        The minimisers are kept until the global number is known, in `rooms` where there is one.
        Where steps need no global number, each is taken at once.
        """
        found: dict[int, Update] = {}
        at_once = not self._sums_up and not self._constrained
        corner = self._needs_corner
        for i, update in overlap.completed(
            ready, self._geometry, buckets, estimates, self._constrained, corner
        ):
            estimates[i].forget()
            room = rooms[i]
            if at_once and update.ready and update.held:
                move(buckets[i : i + 1], [update], 1.0, finite, False)
                update.forget()
            elif room is not None and update.held and update.lmo is not room:
                update.lmo = room.copy_(update.lmo)
            found[i] = update
        updates = [found[i] for i in range(len(buckets))]
        settle(updates, corner)
        return updates

    def _ready(self, roster: Roster, free: list[bool], finite: Flag) -> dict[int, Update]:
        """Return the updates of buckets, by number, that the backward pass left for this step."""
        begun, self._known.overlap = self._known.overlap, None
        if begun is None or torch.compiler.is_compiling():
            return {}
        return begun.take(roster, free, finite is True)

    def _zero(self) -> Tensor | None:
        """Return 0 where stages of a pipeline add up their numbers: one may have no gradient."""
        if self._stages is None:
            return None
        return wide(torch.zeros((), device=next(self._params()).device))

    def _collect(self) -> Roster:
        self._check_groups()
        roster, self._known.roster = self._known.roster, None
        if roster is None or not roster.enter(self.param_groups, self._settings.longest):
            self._check_replaced()
            self._check_members()
            names = [n for i, group in enumerate(self.param_groups) for n in self._names(i, group)]
            roster = Roster(names, self.param_groups)
            for param in roster.params:
                param.counted = all(param.tensor is not copy for copy in self._copies)
            roster.enter(self.param_groups, self._settings.longest)
            roster.buckets = self._geometry.buckets(roster.params, self._reuse_grad)
            self._estimator.fit(self.state, roster.params)
            roster.set_dtypes(self._estimator.dtype_of)
            if self._average is not None:
                self._average.fit(self.state, self._params())
        if roster.params and self._constrained:
            self._geometry.check_complete(roster.missing)
        self._known.roster = roster
        return roster

    def metrics(self) -> dict[str, Tensor]:
        """Return the metrics of the steps so far, as tensors on the device, without waiting for it.

        All are 0-d, in float64 if the device has it:

        - `dual_norm`: the global `sum_l r_l ||d_l||_l*` of the last step; in its place `gap`, the
          global `sum_l <d_l, x_l + r_l v_l>`, for a constrained optimizer;
        - `step_factor`: the share in [0, 1] of the longest step that the last step took;
        - `clipped_share`: the share of the steps that the threshold clipped to the longest step;
        - `skipped`: how many steps were skipped for a gradient that is not finite, or an `lr` or
          `rho` in a tensor that is out of range;

        and `group_dual_norms`, of shape `(number of groups,)`, splits the dual norm.
        All are zero before the first step, and for a group that was added after the last step. They
        describe this process only: a checkpoint does not contain them.
        """
        size = "gap" if self._constrained else "dual_norm"
        return self._record.read(size, len(self.param_groups))

    # -- state ---------------------------------------------------------------------------------

    @torch.no_grad()
    def eval(self) -> None:
        """Put the averaged weights into the model, in place of the fast weights, which are trained.

        The two are swapped in memory, bit for bit. A second call does nothing; nor does a call
        before the first step or without `average=`. After the swap a step raises until `train()`.
        """
        if self._average is not None:
            self._average.put_out(self.state, self._params())

    @torch.no_grad()
    def train(self) -> None:
        """Put the fast weights back into the model, after `eval()`.

        Raises:
            RuntimeError: weights were written to since `eval()`, as far as torch's version counters
                show it. Nothing is changed.
        """
        if self._average is not None:
            self._average.put_back(self.state, self._params())
