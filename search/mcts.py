"""One search as ask and tell: the model is never inside, so batching is the caller's loop.

A simulation walks from the root by the selection rule to a finished text (or, where states are the
leaves, to one new node), has it evaluated, and adds its value to every edge it came by. On the way
a node may first need options. So `ask` hands out one of two requests, and each is answered by its
own `tell`:

    ask() -> Expansion  -> tell_options(expansion, proposal)
    ask() -> Leaf       -> tell_evaluation(leaf, evaluation)
    ask() -> None          nothing to do now: answers are awaited, or the search has ended

Texts: options are drawn one at a time and judged before anything is built on them. States: the
sound beginning of a leaf's rollout joins the tree at once, so the next options are drawn where the
model first went wrong and not where it was right anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import eq

from search import backup
from search.budget import Budget, StopReason
from search.candidates import Candidate, Result, SameAnswer, judged
from search.decision import Decision
from search.errors import SearchSettingsError
from search.expansion import ALL_DRAWN, note_value, num_wanted, one_more, widened
from search.interfaces import EvaluateRequest, Evaluation, ExpandRequest, Proposal, Rollout
from search.merge import ClaimOf, join, rule_of
from search.randomness import derive_seed, gamma, gumbel
from search.selection import RULES, UNSEEN
from search.settings import SearchSettings
from search.simulation_log import Simulation
from search.state import Option, State, probability
from search.tree import Edge, Node, new_root


@dataclass(slots=True, eq=False)
class Expansion:
    """`node` needs options; the edges of `path` lead to it."""

    node: Node
    path: tuple[Edge, ...]
    request: ExpandRequest


@dataclass(slots=True, eq=False)
class Leaf:
    """`node` needs an evaluation; the edges of `path` wait for it."""

    node: Node
    path: tuple[Edge, ...]
    request: EvaluateRequest


class Search:
    """One problem's search: a tree, and one for each other wording that it was given."""

    def __init__(
        self,
        root: State,
        settings: SearchSettings,
        seed: int,
        same: SameAnswer = eq,
        wordings: Sequence[State] = (),
        claim_of: ClaimOf | None = None,
    ) -> None:
        """`same` says whether two answers are equal, `claim_of` what a step claims; `wordings` are
        the same problem in other words.

        Raises SearchSettingsError for wordings where states are the leaves.
        """
        if wordings and settings.leaves != "texts":
            raise SearchSettingsError(
                "search setting leaves is 'states', and other wordings are given",
                "set leaves to texts, or wordings to 1",
            )
        self.settings = settings
        self.same = same
        self.seed = seed
        self.root = new_root(root)
        self.roots = [self.root, *(new_root(state, ix) for ix, state in enumerate(wordings, 1))]
        """Roots: the problem's own wording, and the others."""
        self.nodes = list(self.roots)
        self.budget = Budget()
        self.candidates: list[Candidate] = []
        self.log: list[Simulation] = []
        """All finished simulations in order: with the nodes' parents it gives every N and W."""
        self.stop_reason: StopReason = ""
        self.num_unscored = 0
        self.error = ""
        """Why the search failed; empty otherwise."""
        self._merge = rule_of(settings, claim_of)
        self._claim_of = claim_of if settings.merge == "claims" else None
        self._is_texts = settings.leaves == "texts"
        is_by_mass = self._is_texts and settings.selection == "puct"
        self._rule = RULES["mass_puct" if is_by_mass else settings.selection]
        self._root_rule = RULES["gumbel"] if settings.root_selection == "gumbel" else self._rule
        self._begins_greedily = self._is_texts and settings.num_rollouts > 0
        self._awaited: dict[int, Expansion | Leaf] = {}
        """Requests handed out and not yet answered, by identity: a second tell changes nothing."""
        self._read: set[int] = set()
        """Other wordings whose prompts were read."""
        self._texts: set[tuple[int, ...]] = set()
        """Tokens of the candidates: each text is one of them once."""
        self._decision = Decision(same)
        self._steady = ("", 0)
        """The answer that the last simulations agreed on, and how many they were."""

    @property
    def is_done(self) -> bool:
        return bool(self.stop_reason) and not self._awaited

    def ask(self) -> Expansion | Leaf | None:
        if len(self._awaited) >= self.settings.in_flight:
            return None
        if not self.stop_reason:
            self.stop_reason = self.budget.exceeded(self.settings)
        if self.stop_reason:
            return None
        is_first = not self._is_texts and not self.root.num_evaluations
        if is_first and not self.root.is_closed:
            if self._awaited:
                return None
            return self._lease(Leaf(self.root, (self.root.parent_edge,), self._request(self.root)))
        while any(not root.is_closed for root in self.roots):
            found = self._descend()
            if isinstance(found, Node):
                continue
            return None if found is None else self._lease(found)
        self.stop_reason = "exhausted"
        return None

    def tell_options(self, expansion: Expansion, proposal: Proposal) -> None:
        """Add the proposed options that are new. Unsound ones stay recorded, and closed."""
        if not self._answered(expansion):
            return
        node = expansion.node
        node.is_expanding = False
        node.num_drawn = expansion.request.count
        self.budget.tokens += proposal.num_tokens
        self.budget.calls += proposal.num_calls
        if not expansion.request.known:
            self._note_prompt(node)
        num_open = node.num_open
        self._join(node, proposal.options, proposal.unsound, expansion.request.known)
        if self.settings.proposal == "distinct" and proposal.options:
            node.last_prior = probability(proposal.options[-1].logprob)
        if not self._is_texts and node.num_open == num_open:
            backup.note_dead_end(expansion.path)
        if len(proposal.options) < expansion.request.count:
            node.num_drawn = ALL_DRAWN
            node.explore(node.unseen_mass)

    def tell_evaluation(self, leaf: Leaf, evaluation: Evaluation) -> None:
        """Back the value up, or take the simulation back when the leaf stayed unscored.

        A value that is no number in [0, 1] counts as unscored: it would poison every mean above.
        """
        if not self._answered(leaf):
            return
        node, value = leaf.node, evaluation.value
        self._note_prompt(node)
        self.budget.tokens += evaluation.num_tokens
        self.budget.calls += evaluation.num_calls
        if value is None or not 0.0 <= value <= 1.0:
            self._unscored(leaf)
            return
        self.budget.simulations += 1
        node.value, node.scores, node.rollouts = value, evaluation.scores, evaluation.rollouts
        node.num_evaluations = 1
        if node.parent is not None:
            note_value(node.parent, value)
        backup.finish(leaf.path, value)
        self.log.append(Simulation(node.ix, value, self.budget.tokens))
        for rollout in evaluation.rollouts:
            if rollout.state.is_finished:
                self._consider(Candidate(rollout, node))
        if node.state.is_terminal or node.depth >= self.settings.max_depth:
            node.close()
        elif evaluation.rollouts:
            rollout = evaluation.rollouts[0]
            num_new = len(rollout.state.options) - rollout.num_given
            self._adopt(node, rollout, num_new if self._is_texts else rollout.num_sound)
        if self._is_texts and self.settings.stop_decided and not self.stop_reason:
            self._note_decided()
        if self.settings.patience and not self.stop_reason:
            self._watch()

    def _note_decided(self) -> None:
        if self._decision.is_made(self.candidates, self.nodes):
            self.stop_reason = "decided"

    def fail(self, reason: str) -> None:
        """End the search with what was found so far: the outside cannot answer."""
        self._awaited.clear()
        self.stop_reason, self.error = "failed", reason

    def result(self) -> Result:
        return judged(
            self.candidates, self.settings.final, self.stop_reason, self.budget, self.same
        )

    def _descend(self) -> Expansion | Leaf | Node | None:
        """Walk down once. A node comes back when it was found closed and the walk starts anew."""
        settings = self.settings
        node = self.root if len(self.roots) == 1 else self._next_root()
        path = [node.parent_edge]
        if self._begins_greedily and not node.num_evaluations and not node.num_failures:
            return None if node.pending else Leaf(node, tuple(path), self._request(node))
        rule = self._root_rule
        while True:
            if node.is_expanding:
                return None
            wanted = num_wanted(node, settings)
            edge = None if wanted > node.num_drawn else rule(node, settings)
            if edge is UNSEEN:
                wanted = one_more(node) if self._is_texts else widened(node, settings)
            if wanted > node.num_drawn:
                # The seed is of the node alone: asking again goes on with the same draws.
                seed = derive_seed(self.seed, node.ix, "expand")
                return Expansion(
                    node, tuple(path), ExpandRequest(node.state, wanted, seed, node.num_drawn)
                )
            if edge is None:
                if node.num_open:
                    return None  # all that is open is under way
                node.close()
                return node
            path.append(edge)
            is_new = edge.child is None
            node, rule = edge.child or self._grow(node, edge), self._rule
            if self._is_leaf(node, is_new):
                return Leaf(node, tuple(path), self._request(node))

    def _next_root(self) -> Node:
        """The open wording with most probability to explore, by simulations that went there."""
        return max(
            (root for root in self.roots if not root.is_closed),
            key=lambda root: root.mass / (1 + root.visits + root.pending),
        )

    def _note_prompt(self, node: Node) -> None:
        """Another wording's prompt is read once."""
        if node.parent is None and node is not self.root and node.ix not in self._read:
            self._read.add(node.ix)
            self.budget.tokens += len(node.state.prompt_tokens)

    def _is_leaf(self, node: Node, is_new: bool) -> bool:
        """Whether a simulation ends here, with the node's evaluation."""
        if self._is_texts:
            return node.state.is_terminal or node.depth >= self.settings.max_depth
        return is_new or bool(node.num_failures and not node.edges and not node.num_evaluations)

    def _lease(self, request: Expansion | Leaf) -> Expansion | Leaf:
        self._awaited[id(request)] = request
        if isinstance(request, Expansion):
            request.node.is_expanding = True
        else:
            backup.begin(request.path)
            self.budget.started += 1
        return request

    def _answered(self, request: Expansion | Leaf) -> bool:
        return self._awaited.pop(id(request), None) is request

    def _request(self, node: Node) -> EvaluateRequest:
        known: tuple[Rollout, ...] = ()
        if (
            node.parent is not None
            and node.parent.rollouts
            and self.settings.rollout_temperature == 0
        ):
            tokens = node.state.tokens
            known = tuple(
                r for r in node.parent.rollouts if r.state.tokens[: len(tokens)] == tokens
            )
        return EvaluateRequest(node.state, derive_seed(self.seed, node.ix, "rollout"), known)

    def _join(
        self,
        node: Node,
        options: tuple[Option, ...],
        unsound: tuple[str, ...] = (),
        num_known: int = 0,
    ) -> list[Edge]:
        """Take options, the first of them known before, into a node by the merge rule and the rule
        for unsound ones."""
        settings = self.settings
        priors = [probability(option.logprob) for option in options]
        if unsound and settings.unsound == "discount":
            cut = settings.unsound_discount
            priors = [p * cut if u else p for p, u in zip(priors, unsound, strict=True)]
        edges = join(node, options, priors, self._merge, unsound)
        for edge in edges:
            if edge.unsound_reason and settings.unsound == "prune":
                node.prune(edge)
            if node.parent is None and not edge.noise:
                edge.noise = self._noise(edge.option)
        if self._claim_of is not None and settings.unsound == "prune":
            self._lend(node, edges[num_known:], priors[num_known:])
        return edges

    def _lend(self, node: Node, edges: Sequence[Edge], priors: Sequence[float]) -> None:
        """A step that the tool refutes counts for the one that works out the same and is right:
        the policy meant to do that, and the tool keeps its slips away."""
        for edge, prior in zip(edges, priors, strict=True):
            claim = self._claim_of(edge.option.text) if self._claim_of else None
            if claim is None:
                continue
            what = claim.what
            if not edge.unsound_reason:
                if node.sound.setdefault(what, edge) is edge:
                    node.lend(edge, node.spare.pop(what, 0.0))
            elif what in node.sound:
                node.lend(node.sound[what], prior)
            else:
                node.spare[what] = node.spare.get(what, 0.0) + prior

    def _noise(self, option: Option) -> float:
        """A root option's draw: of its tokens alone, so it does not depend on when it was drawn."""
        name = ",".join(map(str, option.tokens))
        if self.settings.root_selection == "gumbel":
            return gumbel(self.seed, name, "root gumbel")
        if self.settings.noise_fraction:
            return gamma(self.settings.noise_concentration, self.seed, name, "root noise")
        return 0.0

    def _grow(self, node: Node, edge: Edge) -> Node:
        child = Node(node.state.extended(edge.option), len(self.nodes), edge, node)
        edge.child = child
        self.nodes.append(child)
        return child

    def _adopt(self, node: Node, rollout: Rollout, num: int) -> None:
        """Grow the first `num` options of a rollout as a chain of nodes without visits."""
        new = rollout.state.options[rollout.num_given :]
        for option in new[:num]:
            edge = self._join(node, (option,))[0]
            if edge.is_closed:
                return
            node = edge.child or self._grow(node, edge)
            if node.state.is_terminal or node.depth >= self.settings.max_depth:
                node.close()
            if node.is_closed:
                return

    def _unscored(self, leaf: Leaf) -> None:
        backup.cancel(leaf.path)
        self.num_unscored += 1
        self.budget.started -= 1
        leaf.node.num_failures += 1
        if leaf.node.num_failures >= self.settings.max_failures:
            leaf.node.close()

    def _consider(self, candidate: Candidate) -> None:
        tokens = candidate.rollout.state.tokens
        if tokens not in self._texts:
            self._texts.add(tokens)
            self.candidates.append(candidate)
        score, is_sound = candidate.rollout.outcome.value, candidate.rollout.is_sound
        if score is None or is_sound is False:
            return
        gate = self.settings.stop_value if is_sound else self.settings.stop_unchecked_value
        if score >= gate:
            self.stop_reason = self.stop_reason or "solved"

    def _watch(self) -> None:
        """Count the simulations that left the answer as it was."""
        result = self.result()
        answer = result.chosen.rollout.answer if result.chosen else None
        if answer is None or (result.confidence or 0.0) < self.settings.stop_confidence:
            self._steady = ("", 0)
            return
        is_steady = answer == self._steady[0] or self.same(answer, self._steady[0])
        self._steady = (answer, self._steady[1] + 1 if is_steady else 0)
        if self._steady[1] >= self.settings.patience:
            self.stop_reason = "converged"
