"""What a model thought on its way to an answer: chains of steps (CoT) and trees of thoughts (ToT).

The types are checked when an object is made; whether steps and nodes fit together is checked when it is stored, all
of it at once (see validation.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Metadata = dict[str, JsonValue]
ReasoningType = Literal["cot", "tot"]


class CoTStep(BaseModel):
    """One step of a chain of thought. `confidence` is from 0 to 1; None is unknown, which is not 0."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step_number: int
    thought: str
    rationale: str = ""
    confidence: float | None = None
    metadata: Metadata = Field(default_factory=dict)


class ToTNode(BaseModel):
    """One thought of a tree.

    `children_ids` may name thoughts that were not expanded, and so are no nodes. `score` is from 0 to 1, or None when
    nobody gave one; `depth` is 0 for a root, and is found when it is None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    node_id: str
    thought: str
    parent_id: str | None = None
    children_ids: list[str] = Field(default_factory=list)
    score: float | None = None
    depth: int | None = None
    metadata: Metadata = Field(default_factory=dict)


class ReasoningResult(BaseModel):
    """How a problem was solved: the steps of a chain in order, or the nodes of a tree in any order.

    `metadata` may hold `model`, `prompt_version` and `params`, which say under which conditions the steps are reused,
    and `score_range` or `confidence_range`, two numbers, where those are not from 0 to 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    reasoning_type: ReasoningType
    problem: str
    steps: list[CoTStep] | list[ToTNode]
    final_answer: str | None = None
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _steps_are_of_the_type(cls, data: Any) -> Any:
        """Read plain objects as what the type says: an empty object could be either."""
        if isinstance(data, Mapping) and isinstance(data.get("steps"), list | tuple):
            kinds: dict[object, type[BaseModel]] = {"cot": CoTStep, "tot": ToTNode}
            kind = kinds.get(data.get("reasoning_type"))
            if kind is not None:
                steps = [kind.model_validate(each) if isinstance(each, Mapping) else each for each in data["steps"]]
                return {**data, "steps": steps}
        return data

    @model_validator(mode="after")
    def _no_other_steps(self) -> ReasoningResult:
        kind = CoTStep if self.reasoning_type == "cot" else ToTNode
        for place, each in enumerate(self.steps):
            if not isinstance(each, kind):
                raise ValueError(
                    f"steps[{place}] is a {type(each).__name__}: reasoning_type {self.reasoning_type!r} has steps of"
                    f" type {kind.__name__}"
                )
        return self

    @property
    def thoughts(self) -> Sequence[CoTStep | ToTNode]:
        """Return the steps, whatever they are."""
        return self.steps

    @property
    def chain(self) -> list[CoTStep]:
        """Return the steps of a chain; none for a tree."""
        return [each for each in self.steps if isinstance(each, CoTStep)]

    @property
    def nodes(self) -> list[ToTNode]:
        """Return the nodes of a tree; none for a chain."""
        return [each for each in self.steps if isinstance(each, ToTNode)]
