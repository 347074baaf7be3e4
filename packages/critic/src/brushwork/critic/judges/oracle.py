"""The exact judge of the embedded world: reads the prompt, detects what is in the picture, compares."""

from collections.abc import Callable
from dataclasses import dataclass

from brushwork.critic.feedback import feedback
from brushwork.critic.scene import GRID, SceneGraph, diff, parse_scene
from brushwork.critic.verdict import JudgeFailure, Verdict
from brushwork.tokens.trajectory import Image


@dataclass(frozen=True, kw_only=True, slots=True)
class OracleJudge:
    """Judges prompts and `<des>` descriptions alike; as exact as its detector.

    The score is 1 / (1 + number of discrepancies), hence 1 exactly where the verdict is passed.

    Attributes:
        detect: image to the scene that it shows, such as `ShapesDetector` of brushwork.data.
        parse: text to the scene that it asks for; raises ValueError on words that it does not know.
        grid: cells a side; centres may be off by half a cell.
    """

    detect: Callable[[Image], SceneGraph]
    parse: Callable[[str], SceneGraph] = parse_scene
    grid: int = GRID
    name: str = "oracle/1"

    def __call__(self, prompt: str, image: Image) -> Verdict | JudgeFailure:
        """Passed where the picture shows all that the prompt asks for and nothing else.

        A prompt that cannot be read is a failure of the judge; an image of another size is the caller's ValueError.
        """
        try:
            wanted = self.parse(prompt)
        except ValueError as error:
            return JudgeFailure(reason=str(error), judge=self.name)
        found = diff(wanted, self.detect(image), tolerance=0.5 / self.grid)
        reason = feedback(found, grid=self.grid).draft_check if found else "the picture shows the prompt"
        return Verdict(passed=not found, score=1 / (1 + len(found)), reason=reason, judge=self.name)
